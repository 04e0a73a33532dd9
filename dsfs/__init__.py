"""dsfs: dataset versions in object storage as read-only files, cached once for all nodes."""

__version__ = "0.1.0"
