"""One file for each resource of the API: typed input, one service call, return."""
