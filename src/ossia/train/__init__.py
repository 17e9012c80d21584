"""Training: problems made by code, harmony conversations around them, the network as parameters, the loop."""
