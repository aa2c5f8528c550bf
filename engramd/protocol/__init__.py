"""The wire: frames, messages, the unit's codec and the sans-I/O connection. Imports cbor2 and nothing else."""
