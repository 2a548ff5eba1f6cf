"""Image Classifier: sorts phone photos into eight categories and never pays twice for the same picture."""

VERSION = "0.1.0"
"""Of the service, as in pyproject.toml."""
