"""The demonstration: an agent that reads a folder, and the worker under it killed on the way."""
