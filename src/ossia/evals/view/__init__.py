"""The viewer of a run: one HTML file that asks nothing of the network."""
