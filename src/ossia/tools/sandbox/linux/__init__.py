"""The Linux sandbox: `enter` runs as a process of its own between Ossia and the program."""
