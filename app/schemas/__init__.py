"""What goes over the wire, with the examples that /docs shows."""
