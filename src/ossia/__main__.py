"""`python -m ossia` is the command line."""

from ossia.cli import main

main()
