"""HTTP in, HTTP out: typed input, one service call, return."""
