"""Says how right a model's answers are, on labelled photos: asks, keeps the answers, and counts."""
