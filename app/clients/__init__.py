"""Model clients: the things that look at a photo."""
