"""Answer from the cache, else one model call per new photo."""
