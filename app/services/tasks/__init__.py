"""Asynchronous inference: tasks, who has claimed them, and when they are deleted."""
