"""A simulated world: the shipped code, on a virtual clock, where a fault may happen at every await."""
