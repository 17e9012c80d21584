"""The ways to ask a model: in this process, or at an endpoint."""
