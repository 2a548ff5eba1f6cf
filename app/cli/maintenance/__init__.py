"""What the commands for operators do with the configured database. Importing any of it takes a second."""
