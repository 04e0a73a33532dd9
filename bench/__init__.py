"""Benchmarks of dsfs against the plain disk, rclone and the limit of the origin client: see README.md."""
