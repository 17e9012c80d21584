"""The sandbox of the tools: programs that the model writes run without network, in few files, within limits.

`choose.find` finds the form that this machine offers, `process.start` starts a program in it. Only the standard library
is used. The helpers that run before the program (`linux/`) import nothing else, so that they start quickly.
"""
