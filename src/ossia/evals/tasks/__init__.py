"""One file for each family of benchmarks: what is asked, how it is graded, what was published."""
