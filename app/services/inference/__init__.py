"""Inference on the pictures of a library, by the models that can be chosen."""
