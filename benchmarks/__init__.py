"""Programs that print figures: what Engram costs, beside the floors of the same machine. See README.md."""
