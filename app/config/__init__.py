"""Settings, in groups: where they come from, what they mean, and what is refused."""
