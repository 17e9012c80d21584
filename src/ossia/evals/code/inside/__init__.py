"""Programs that run inside the sandbox. Ossia reads their text and never imports them; they import only Python's own library."""
