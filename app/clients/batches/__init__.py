"""Batches: photos that a provider looks at within a day, at half the price."""
