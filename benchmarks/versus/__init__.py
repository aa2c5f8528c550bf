"""Engram and its peers side by side: a file for each, what they are asked in `peer`, and the table in `rows`."""
