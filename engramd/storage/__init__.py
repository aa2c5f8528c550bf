"""Disk: the LevelDB log, its keys, and the state rows that commit with it."""
