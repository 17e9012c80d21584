"""Generated texts and conversations for ossia-mini's training."""
