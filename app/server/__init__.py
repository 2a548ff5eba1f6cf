"""The HTTP server around the application: uvicorn's, taught to leave without losing a request."""
