"""Decisions: pure functions from state and command to events, and from event to state. No I/O, no clock."""
