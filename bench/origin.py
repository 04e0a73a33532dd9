"""The bench's own origin: looks like S3, costs little, and can be made distant.

nginx serves GET, HEAD and Range from plain files (0.26 CPU s per GB, the least of all servers tried); a thin
responder (lister.py) lists.  Signatures are not checked, conditions (If-Match) are ignored, nothing can be
written.  One nginx serves every distance, each on its own port:

* *fast*: loopback as it is.
* *far*: 20 ms before the first byte of every answer (a timer in nginx) and 90 MB/s per connection (pacing by
  the kernel: SO_MAX_PACING_RATE, which connections take over from the listening socket; nginx's own
  limit_rate lets a second's worth through at once).
"""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from bench.accesslog import LOG_FORMAT, Traffic, traffic
from bench.errors import BenchError
from bench.lister import ETAG

_SO_MAX_PACING_RATE = 47  # <asm-generic/socket.h>; not in Python's socket module
LOOPBACK = "127.0.0.1"
ACCESS_LOG = "access.log"
_START_TIMEOUT_S = 20.0
_MODULES = Path("/usr/lib/nginx/modules")


@dataclass(frozen=True, slots=True)
class Distance:
    """How far away the origin is: delay of each answer, and bytes/s of one connection (None = no limit)."""

    name: str
    latency_s: float
    bytes_per_s: int | None


FAST = Distance("fast", 0.0, None)
FAR = Distance("far", 0.020, 90_000_000)
DISTANCES = {distance.name: distance for distance in (FAST, FAR)}

_CONF = """
load_module %(modules)s/ngx_http_echo_module.so;
load_module %(modules)s/ngx_http_headers_more_filter_module.so;
daemon off; worker_processes 2; user root; pid %(run)s/nginx.pid; error_log %(run)s/error.log warn;
events { worker_connections 2048; multi_accept on; }
http {
  log_format bench '%(log_format)s';
  access_log %(run)s/%(access_log)s bench;
  sendfile on; sendfile_max_chunk 2m; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 1000000; keepalive_timeout 600s; client_max_body_size 0;
  types {} default_type application/octet-stream; etag off; server_tokens off; max_ranges 1;
  open_file_cache max=50000 inactive=600s; open_file_cache_valid 600s;
  client_body_temp_path %(run)s/body; proxy_temp_path %(run)s/proxy; fastcgi_temp_path %(run)s/fastcgi;
  uwsgi_temp_path %(run)s/uwsgi; scgi_temp_path %(run)s/scgi;
  upstream lister { server unix:%(run)s/lister.sock; keepalive 4; }
  map $request_uri $is_bucket { default 0; "~^/[^/?]*/?(\\?|$)" 1; }
  %(servers)s
}
"""

# The object location has a name as well, because the distant server enters it by echo_exec.
_SERVER = """
  server {
    listen %(address)s:%(port)d backlog=1024; root %(root)s;
    error_page 418 = @list; recursive_error_pages on;
    location / { %(entrance)s }
    location @object { %(object)s }
    location @missing {
      internal; default_type application/xml;
      return 404 '<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>';
    }
    location @list {
      internal; proxy_pass http://lister; proxy_http_version 1.1; proxy_set_header Connection "";
    }
  }
"""

# nginx would judge conditions by its own ETag, which is switched off.
_OBJECT = (
    "if ($is_bucket) { return 418; } "
    "more_clear_input_headers If-Match If-None-Match If-Modified-Since If-Unmodified-Since; "
    f"add_header x-amz-request-id 1; add_header ETag '\"{ETAG}\"'; try_files $uri @missing;"
)


class Origin:
    """Serves `root` (root/<bucket>/<key>) at all distances while entered; `run_directory` is its own."""

    def __init__(self, root: Path, run_directory: Path, address: str = LOOPBACK) -> None:
        self._address = address
        self._root = root
        self._run = run_directory
        self._ports: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Origin":
        nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if nginx is None or not (_MODULES / "ngx_http_echo_module.so").exists():
            raise BenchError(
                "nginx or its echo module is missing: install the packages of bench/packages.txt"
            )
        with ExitStack() as stack:
            self._start(nginx, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def url(self, distance: Distance) -> str:
        return f"http://{self._address}:{self._ports[distance.name]}"

    def mark(self) -> int:
        """A place in the log, for traffic_since."""
        return (self._run / ACCESS_LOG).stat().st_size

    def traffic_since(self, mark: int, distance: Distance) -> Traffic:
        """What was asked at this distance since then; requests still running are not in it."""
        return traffic(self._run / ACCESS_LOG, mark, self._ports[distance.name])

    def _start(self, nginx: str, stack: ExitStack) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        sockets = [stack.enter_context(_listen(self._address, distance)) for distance in DISTANCES.values()]
        self._ports = {name: sock.getsockname()[1] for name, sock in zip(DISTANCES, sockets, strict=True)}
        (self._run / "nginx.conf").write_text(self._configuration())
        lister_socket = self._run / "lister.sock"
        lister = subprocess.Popen(
            [sys.executable, "-m", "bench.lister", str(self._root), str(lister_socket)],
            cwd=Path(__file__).parents[1],
        )
        stack.callback(stop, lister)
        _wait_for(lister, lister_socket.exists)
        descriptors = [sock.fileno() for sock in sockets]
        server = subprocess.Popen(
            [nginx, "-c", str(self._run / "nginx.conf"), "-e", str(self._run / "error.log")],
            env=os.environ | {"NGINX": "".join(f"{descriptor};" for descriptor in descriptors)},
            pass_fds=descriptors,
            stderr=subprocess.DEVNULL,  # "using inherited sockets"; all else is in error.log
        )
        stack.callback(stop, server)
        for port in self._ports.values():
            _wait_for(server, partial(_answers, self._address, port))

    def _configuration(self) -> str:
        servers = []
        for name, port in self._ports.items():
            latency_s = DISTANCES[name].latency_s
            entrance = f"echo_sleep {latency_s}; echo_exec @object;" if latency_s else _OBJECT
            inside = {"address": self._address, "port": port, "root": self._root}
            servers.append(_SERVER % (inside | {"entrance": entrance, "object": _OBJECT}))
        return _CONF % {
            "modules": _MODULES,
            "run": self._run,
            "access_log": ACCESS_LOG,
            "log_format": LOG_FORMAT,
            "servers": "".join(servers),
        }


def stop(process: subprocess.Popen[bytes], grace_s: float = 20.0) -> None:
    """Ends a process that this one started: politely, then not."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _listen(address: str, distance: Distance) -> socket.socket:
    sock = socket.socket()
    if distance.bytes_per_s is not None:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, distance.bytes_per_s)
    sock.bind((address, 0))
    sock.listen(1024)
    sock.setblocking(False)  # nginx expects its inherited sockets so
    return sock


def _answers(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/no-such-bucket/?list-type=2")
        return connection.getresponse().status == 404
    except OSError:
        return False
    finally:
        connection.close()


def _wait_for(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"the origin did not start: {process.args!r}")
        time.sleep(0.02)
