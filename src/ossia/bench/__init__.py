"""How fast a model runs on this machine, beside what the machine itself can do: `ossia bench`."""
