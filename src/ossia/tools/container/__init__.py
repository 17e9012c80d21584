"""The container tool: commands of the model run in the sandbox, in the data folder that the python tool shares."""
