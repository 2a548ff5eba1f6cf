"""What calls of models cost: the ledger, and the limits that are checked before a call."""
