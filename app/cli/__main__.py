"""`python -m app.cli`: the command where the project itself is not installed."""

from app.cli.main import main

if __name__ == "__main__":
    main()
