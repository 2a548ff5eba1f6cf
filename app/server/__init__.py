"""The HTTP server around the application: uvicorn's, taught to shut down without losing a request."""
