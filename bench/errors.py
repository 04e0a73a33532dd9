"""What stops a benchmark, or one measurement of it."""


class BenchError(Exception):
    """The benchmark cannot run here, or its result would be wrong; the message says why."""
