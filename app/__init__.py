"""Image Classifier: sorts phone photos into eight categories and never pays twice for the same picture."""
