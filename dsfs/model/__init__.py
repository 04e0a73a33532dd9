"""Values and arithmetic: no I/O, no trio."""
