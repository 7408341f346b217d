"""The Temporal workflows."""
