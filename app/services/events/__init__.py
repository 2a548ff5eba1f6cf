"""Task events: from the table to the connections that listen."""
