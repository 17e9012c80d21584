"""IFEval: checks of instructions that a program can verify."""
