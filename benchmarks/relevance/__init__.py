"""How well searches find what is meant: labelled sets from what ships with a Debian system and Python, and the figures of each mode."""
