"""Photos that can wait are put into a provider's batches, at half the price; what comes back ends their tasks."""
