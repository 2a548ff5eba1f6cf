"""Asynchronous inference: tasks, the processes that claim them, and when they are deleted."""
