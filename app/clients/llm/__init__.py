"""Models behind an HTTP API: the providers' SDKs, the prompt, and how an answer is read."""
