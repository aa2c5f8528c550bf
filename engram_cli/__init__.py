"""The command line and the Python client of Engram."""

LITERAL_DASH = "\0-"  # stands for a `-` that follows `--`; no argument of a process can hold a NUL
LOST = "the connection was lost before the answer"
WITH_COMMAND = ("lock", "run")  # the verbs that take `-- CMD`
COMMAND_FOLLOWS = "\0--"  # stands for that `--`
