"""How people and programs look at a daemon and control it."""
