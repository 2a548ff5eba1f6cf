"""The audit log: who did what that an operator may have to answer for."""
