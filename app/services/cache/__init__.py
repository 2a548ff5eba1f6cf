"""The shared cache: SHA-256 of a photo -> its classification."""
