"""Three hundred runs while workers, Temporal and the store are killed: `just chaos`."""
