"""Training objectives: supervised, through adapters, and GRPO."""
