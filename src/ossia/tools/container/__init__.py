"""The container tool: commands of the model run in the sandbox, in the workspace that the python tool shares."""
