"""Business: what the service does, told without HTTP and without a provider's name."""
