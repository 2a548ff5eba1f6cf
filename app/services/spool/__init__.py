"""What could not be written into the database, on disk until it can."""
