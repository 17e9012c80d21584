"""The python tool: code of the model runs in a process of its own, whose variables last for the conversation."""
