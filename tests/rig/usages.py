"""What a node tells of itself, for tests that need no daemon to tell it."""

from dataclasses import replace

from dsfs.model.usage import Dependency, Host, Program, Traffic, Usage, UsedVersion


def used(
    files: int = 1, *, is_warmed: bool = False, since_ns: int = 0, read_bytes: int = 0, again: int = 0
) -> UsedVersion:
    """photos/v1, in use."""
    return UsedVersion("photos", "v1", "0123456789abcdef", files, is_warmed, since_ns, 1_000_000.0, read_bytes, again)


def usage_of(
    host: str = "a",
    *,
    beat_ns: int = 0,
    files: int = 1,
    segments: tuple[str, ...] = (),
    is_stopped: bool = False,
    versions_left_out: int = 0,
    segments_left_out: int = 0,
    is_warmed: bool = False,
) -> Usage:
    """A node that has `files` files of photos/v1 open, or warms it."""
    version = used(files, is_warmed=is_warmed)
    return Usage(
        host=Host(host, ""),
        program=Program(f"run-of-{host}", "0.1.0", 7, "/datasets", is_stopped=is_stopped),
        beat_ns=beat_ns,
        versions=(version,) if version.is_held else (),
        versions_left_out=versions_left_out,
        segments=segments,
        segments_left_out=segments_left_out,
        traffic=Traffic(4_000, 3_000, 1_000, 60.0, 400, 300, 100),
        backing=Dependency("/mnt/dsfs", "ok", ""),
        origins=(Dependency("s3://lake", "ok", ""),),
        trouble=(),
    )


def told_at(usage: Usage, beat_ns: int) -> Usage:
    return replace(usage, beat_ns=beat_ns)
