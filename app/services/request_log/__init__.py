"""The request log and the sums that are written with it."""
