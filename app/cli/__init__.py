"""`image-classifier`: the reference client, and what an operator does at a terminal. The service does not import it."""
