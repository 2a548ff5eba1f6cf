"""Photos that are nearly the same as one that is known: found by the distance of their perceptual hashes."""
