"""One command measures the service beside a plain FastAPI route: `python -m bench`; README.md says how to read it."""
