"""What people name: NAME, NAME/VERSION or NAME/VERSION/PATH, or the path of one of them below the mountpoint."""

from dataclasses import dataclass
from pathlib import Path

from dsfs.model.errors import UsageError


@dataclass(frozen=True, slots=True)
class Form:
    """What a verb takes: `least` to `most` (None: any number of) components; `expected` says it to people."""

    expected: str
    least: int = 0
    most: int | None = None

    def names_in(self, target: str, mountpoint: Path) -> list[str]:
        """The components of the target, none for the mountpoint itself; UsageError if it is not of this form."""
        path = Path(target)
        if path.is_absolute():
            if not path.is_relative_to(mountpoint):
                raise UsageError(f"{target!r} is not below the mountpoint {mountpoint}")
            path = path.relative_to(mountpoint)
        count = len(path.parts)
        if count < self.least or (self.most is not None and count > self.most):
            raise UsageError(f"{target!r}: expected {self.expected}")
        return list(path.parts)


ANYTHING = Form("NAME, NAME/VERSION or NAME/VERSION/PATH")
VERSIONS = Form("NAME or NAME/VERSION", most=2)
VERSION = Form("NAME/VERSION", least=2, most=2)
FILE = Form("NAME/VERSION/PATH", least=3)
