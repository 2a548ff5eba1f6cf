"""Training and measuring the local model's head on labelled photos."""
