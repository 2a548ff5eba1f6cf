"""Accounts: sign-up, passwords, tokens."""
