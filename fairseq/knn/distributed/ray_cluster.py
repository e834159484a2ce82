"""A cluster of Ray that this process has joined, or started: one line for whatever can go wrong with it.

A process joins one cluster. Every backend joins it, the last one leaves it. Where the program had joined one itself,
that one is used, and not left.

Ray's ways that a command cannot have are set right here: messages on stdout, which is for results; a handler of SIGTERM
of its own; the end of the process, without a word, where it writes to a node that has died.
"""

import atexit
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from fairseq.errors import ConfigError, DatastoreError

logger = logging.getLogger(__name__)

LOCAL = "local"  # the address that stands for a new cluster on this machine
_OBJECT_STORE_BYTES = 512 << 20  # of such a cluster: some blocks of queries, and answers
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # RFC 9113, 3.4, and empty settings
_HTTP2_SETTINGS = 4  # the type of the first frame that a server sends
_CONNECT_S = 30.0  # the most that is waited for a first answer
_LOOKS, _LOOK_AGAIN_S = 3, 0.5  # before a cluster counts as gone


class RayCluster:
    """The cluster that this process is in.

    Attributes:
        address: ``host:port`` of its head.
    """

    _joined: ClassVar["RayCluster | None"] = None

    def __init__(self, ray: Any, *, owned: bool, directory: str | None) -> None:
        self._ray, self._owned, self._directory, self._users = ray, owned, directory, 0
        self.address: str = ray.get_runtime_context().gcs_address
        own = ray.get_runtime_context().get_node_id()
        node = next(node for node in ray.nodes() if node["NodeID"] == own)
        self._places = [self.address, f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"]

    @classmethod
    def join(cls, ray: Any, address: str | None, timeout: float) -> "RayCluster":
        """Returns the cluster, joined.

        Args:
            ray: the module.
            address: ``host:port``; ``local`` for a new one on this machine; None for the one that runs on this
                machine, else a new one.
            timeout: the most seconds to wait for an answer at the address.

        Raises:
            ConfigError: nothing answers there, or what answers is no such cluster.
        """
        if cls._joined is None:
            if ray.is_initialized():
                cls._joined = cls(ray, owned=False, directory=None)
            else:
                directory = _init(ray, address or os.environ.get("RAY_ADDRESS"), timeout)
                cls._joined = cls(ray, owned=True, directory=directory)
                atexit.register(cls._joined._end)
        elif address not in (None, LOCAL, cls._joined.address):
            raise ConfigError(
                f"--ray-address {address}: this process is in the cluster at {cls._joined.address} already; close what"
                " uses that first"
            )
        cls._joined._users += 1
        return cls._joined

    def leave(self) -> None:
        """Lets one user go; the last one leaves the cluster, and ends it if it was started here."""
        self._users -= 1
        if self._users or not self._owned:
            return
        atexit.unregister(self._end)
        self._end()

    def _end(self) -> None:
        type(self)._joined = None
        self._ray.shutdown()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def threads(self, actors: int) -> int:
        """Returns how many threads an actor may use: OMP_NUM_THREADS, or its part of a node's processors."""
        if given := os.environ.get("OMP_NUM_THREADS", ""):
            return int(given) if given.isdecimal() and int(given) else 1
        processors = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        usable = [count for count in processors if count >= 1] or [1]
        return max(int(min(usable)) // -(-actors // len(usable)), 1)

    def require_alive(self) -> None:
        """Raises DatastoreError if the head of the cluster, or this machine's part of it, has gone."""
        for place in self._places:
            for look in range(_LOOKS):
                if _answers(place, timeout=5.0):
                    break
                time.sleep(_LOOK_AGAIN_S * (look + 1 < _LOOKS))
            else:
                what = "cluster at" if place == self.address else "node of this machine, at"
                raise DatastoreError(
                    f"the Ray {what} {place} has gone; nothing is lost but this run: start the cluster again (ray"
                    " start), then the same command"
                )

    @contextmanager
    def one_line_errors(self) -> Iterator[None]:
        """Makes errors of Ray's in the block ours, of one line."""
        try:
            yield
        except self._ray.exceptions.RayError as err:
            raise DatastoreError(f"the Ray cluster at {self.address}: {last_line(err)}") from err


def last_line(err: BaseException) -> str:
    """Returns the last line of an error that is not empty, where Ray has the reason."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(err).__name__


def _init(ray: Any, address: str | None, timeout: float) -> str | None:
    """Joins or starts a cluster, and returns the directory of one that was started."""
    wait_s = min(timeout, _CONNECT_S)
    if address is not None and address != LOCAL:
        if not _is_host_and_port(address):
            raise ConfigError(
                f"--ray-address takes host:port, as `ray start --head` prints it, or {LOCAL}, but is {address}"
            )
        if not _is_head(address, wait_s):
            raise ConfigError(
                f"--ray-address {address}: no Ray cluster answers there (tried for {wait_s:g} s at the most); start one"
                " with `ray start --head`, and give the address that it prints for other nodes"
            )
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address == LOCAL or (address is None and not _runs_here(wait_s)):
            return _start(ray, quiet)
        ray.init(address=address, **quiet)
        return None
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as err:
        where = "a Ray cluster on this machine" if address in (None, LOCAL) else f"--ray-address {address}"
        raise ConfigError(f"{where}: {last_line(err)}") from err
    finally:
        # Ray's debugger does the same, so that nothing is printed between its lines.
        ray._private.worker._worker_logs_enabled = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _start(ray: Any, quiet: dict[str, Any]) -> str:
    """Starts a cluster on this machine, with its files in a directory of its own, which is returned."""
    directory = tempfile.mkdtemp(prefix="ray-")
    try:
        ray.init(
            address=LOCAL,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=directory,
            **quiet,
        )
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    logger.info("started a Ray cluster on this machine; --ray-address names another")
    return directory


def _runs_here(timeout: float) -> bool:
    """Returns whether the cluster that `ray start` began last on this machine is alive: ``ray.init`` takes its file."""
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        address = file.read_text(encoding="utf-8").strip()
    except OSError:
        return False
    return _is_host_and_port(address) and _is_head(address, timeout)


def _is_host_and_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal() and 0 < int(port) < 1 << 16


def _is_head(address: str, timeout: float) -> bool:
    """Returns whether gRPC answers, as at a cluster's head; Ray itself waits for minutes where another server does."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return _answers(address, timeout)
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout) as connection:
            connection.sendall(_HTTP2_HELLO)
            header = connection.recv(9, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(header) == 9 and header[3] == _HTTP2_SETTINGS


def _answers(address: str, timeout: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except OSError:
        return False
    return True
