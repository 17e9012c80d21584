"""What a person and a program read of a run: scores, tables, comparisons."""
