"""What the process may use of the machine, and its health check."""
