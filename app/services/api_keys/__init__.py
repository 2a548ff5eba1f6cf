"""API keys: who may ask, for what, and on whose account."""
