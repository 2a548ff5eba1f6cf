"""Faults: what a failing part costs the clients of the running service, and that no answer is lost or counted twice."""
