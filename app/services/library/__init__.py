"""The image library: rows, files, and the sweep that keeps them together."""
