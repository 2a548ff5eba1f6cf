"""Repeats of a request: the first answer is kept with what makes it count, and given again."""
