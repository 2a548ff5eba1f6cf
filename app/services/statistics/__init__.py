"""The figures behind /stats and the dashboard."""
