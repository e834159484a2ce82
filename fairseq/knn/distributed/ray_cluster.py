"""A cluster of Ray that this process has joined, or started: one line for whatever can go wrong with it.

A process joins one cluster. Every backend joins it, the last one leaves it. Where the program had joined one itself,
that one is used, and not left.

Ray's ways that a command cannot have are set right here: messages on stdout, which is for results; a handler of SIGTERM
of its own; the end of the process, without a word, where it writes to a node that has died.
"""

import atexit
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.distributed.ray_head import address_of_this_machine, answers, auth_mode, own_token, require_head

logger = logging.getLogger(__name__)

LOCAL = "local"  # the address that stands for a new cluster on this machine
_OBJECT_STORE_BYTES = 512 << 20  # of such a cluster: some blocks of queries, and answers
_LONGEST = 400  # of an error of Ray's, in letters
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
                if answers(place, timeout=5.0):
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
    here = address_of_this_machine(wait_s) if address is None else None
    if address is not None and address != LOCAL:
        require_head(address, wait_s)
        _require_node(ray, address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address == LOCAL or (address is None and here is None):
            return _start(ray, quiet)
        if here is not None:
            address, asks_for_token = here
            address = None if asks_for_token else address  # by Ray's rule, the user's token goes to none that is named
        ray.init(address=address, **quiet)
        return None
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as err:
        where = "a Ray cluster on this machine" if address in (None, LOCAL) else f"--ray-address {address}"
        raise ConfigError(f"{where}: {' '.join(str(err.__cause__ or err).split())[:_LONGEST]}") from err
    finally:
        # Ray's debugger does the same, so that nothing is printed between its lines.
        ray._private.worker._worker_logs_enabled = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _require_node(ray: Any, address: str) -> None:
    """Raises ConfigError where no node of a cluster runs on this machine, for which Ray looks a minute long."""
    find_node_ids = getattr(getattr(ray._private, "services", None), "find_node_ids", None)
    if find_node_ids is not None and not find_node_ids():
        raise ConfigError(
            f"--ray-address {address}: this machine is no node of the cluster; give `ray start --address {address}"
            " --num-cpus 0` first, by which no shard comes here"
        )


def _start(ray: Any, quiet: dict[str, Any]) -> str:
    """Starts a cluster on this machine, with its files in a directory of its own, which is returned."""
    directory = tempfile.mkdtemp(prefix="ray-")
    if auth_mode() != "disabled" and own_token() is None:
        # Ray would write one to ~/.ray, for which every later `ray start --head` of this user then asks.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
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
