"""What tests, benchmarks and the demonstration share: a real S3 server, a proxy that breaks things, data.

No pytest in here: every part is a context manager or a plain function.
"""
