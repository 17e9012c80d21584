"""What every benchmark shares: samples, solvers, the run and its log."""
