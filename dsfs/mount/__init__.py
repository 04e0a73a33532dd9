"""FUSE: the session, the event loop, inodes and operations."""
