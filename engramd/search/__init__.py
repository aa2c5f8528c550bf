"""Finding: the search worker, a process of its own. Nothing here runs in the daemon's process."""
