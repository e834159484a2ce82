"""Shards on many machines: an actor of Ray for each, which opens the shard's files where it runs.

    this process                         nodes of the cluster
    ────────────                         ────────────────────
    call(2, "nearest", queries, 300) ──► actor of shard 2: opens its files at its first call, and answers
    Pending.result()                 ◄── answer; with the first one after a start, the shard's identity

What a call does when something dies:

    the actor's process or node died     Ray starts the actor anew, on any node that may have it, at most ``RESTARTS``
                                         times, and the call is sent again. The identity that the new one reports must
                                         be that of the one that died.
    no answer within the time            one line that names the shard and its node
    the cluster does not answer          one line that names its address

An actor goes to a node that offers the resource ``shard-2-of-4`` (``ray start --resources '{"shard-2-of-4": 1}'``)
where a node of the cluster does, which then has that shard's files; else to any node with a processor, in turn.

This module alone imports Ray, when the first backend is opened.
"""

import contextlib
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fairseq.errors import ConfigError, DatastoreError, FairseqError, MismatchError
from fairseq.knn.distributed.backend import Pending, ShardBackend
from fairseq.knn.distributed.messages import Queries, ShardIdentity
from fairseq.knn.distributed.ray_cluster import RayCluster, last_line

if TYPE_CHECKING:
    from fairseq.knn.distributed.shard_files import ShardSettings

logger = logging.getLogger(__name__)

RESTARTS = 4  # of an actor
_SLICE = 0.001  # of a processor, or of a resource: what an actor asks for is a place, not a share
_TICK_S, _PAUSE_S = 5.0, 0.5  # between two looks at the cluster; before a call is sent again


class _Reply(NamedTuple):
    """What an actor answers: its identity where the caller does not know this start of it; a value, or an error."""

    start: str
    identity: ShardIdentity | None
    value: Any
    error: str | None


class _ShardActor:
    """A shard on its node. Opened at the first call, since an error in a constructor is lost in Ray's own."""

    def __init__(self, open_shard: Callable[[], Any], threads: int) -> None:
        self._open_shard, self._threads = open_shard, threads
        self._shard: Any = None
        self._identity: ShardIdentity | None = None
        self._start = uuid.uuid4().hex

    def call(self, known: str, method: str, *args: Any) -> _Reply:
        """Returns what the shard's method returns, or the error that it raised, in words."""
        try:
            if self._identity is None:
                self._shard = self._open_shard()
                _use_threads(self._threads)
                self._identity = replace(self._shard.identity(), node=_this_node())
            value = self._identity if method == "identity" else getattr(self._shard, method)(*args)
        except (FairseqError, OSError, MemoryError) as err:
            return _Reply(self._start, self._identity, None, f"{_this_node()}: {_in_words(err)}")
        return _Reply(self._start, self._identity if known != self._start else None, value, None)


class RayBackend(ShardBackend):
    """Shards of one index in actors.

    Args:
        openers: one for each shard; called on the shard's node, where paths must be valid, it returns the ``Shard``.
        address: of the cluster, ``host:port``; ``local`` for a new one on this machine; None for the one that runs on
            this machine, else a new one.
        timeout: seconds that an answer is waited for, restarts included.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, openers: Sequence[Callable[[], Any]], address: str | None, timeout: float) -> None:
        self.timeout, self._count = timeout, len(openers)
        self._ray = _import_ray()
        self._cluster = RayCluster.join(self._ray, address, timeout)
        self._starts = [""] * self._count
        self._identities: list[ShardIdentity | None] = [None] * self._count
        self._shared: tuple[Any, Any] = (None, None)
        try:
            with self._cluster.one_line_errors():
                self._actors = self._start_actors(openers)
            for pending in [self.call(number, "identity") for number in range(self._count)]:
                pending.result()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        prefix: str | Path,
        index: str | Path,
        count: int,
        settings: "ShardSettings",
        *,
        address: str | None = None,
        timeout: float = 600.0,
    ) -> "RayBackend":
        """Returns the shards of an index; raises what ``ShardFiles.open`` does, with the shard and its node.

        Args:
            prefix: of the datastore's files, on every node.
            index: name of the whole index, likewise.
            count: shards.
            settings: how they are asked.
            address: see the class.
            timeout: likewise.
        """
        from fairseq.knn.distributed.shard import Shard

        places = Path(prefix).absolute(), Path(index).absolute()
        return cls([partial(Shard.open, *places, number, settings) for number in range(count)], address, timeout)

    def identities(self) -> Sequence[ShardIdentity]:
        """Returns what each shard reported when it was started last."""
        return [identity for identity in self._identities if identity is not None]

    def call(self, shard: int, method: str, *args: Any) -> Pending:
        """Sends a call of a ``Shard``'s method, and returns at once."""
        return _RayPending(self, shard, method, tuple(self._placed(arg) for arg in args))

    def close(self) -> None:
        """Ends the actors, and leaves the cluster after its last backend."""
        actors, self._actors = getattr(self, "_actors", []), []
        for actor in actors:
            with contextlib.suppress(Exception):  # of a cluster that has gone
                self._ray.kill(actor)
        self._cluster.leave()

    def kill(self, shard: int) -> None:
        """Ends the process of a shard, which is then started anew: what tests do to it."""
        self._ray.kill(self._actors[shard], no_restart=False)

    def send(self, shard: int, method: str, args: tuple[Any, ...]) -> Any:
        """Returns Ray's reference to the answer of a call, which is sent."""
        return self._actors[shard].call.remote(self._starts[shard], method, *args)

    def receive(self, shard: int, method: str, args: tuple[Any, ...], ref: Any) -> Any:
        """Returns the answer of a call; sends it again where its actor has died.

        Raises:
            DatastoreError: none came in time, the shard died too often, or what it says is an error.
        """
        errors, deadline, deaths = self._ray.exceptions, time.monotonic() + self.timeout, 0
        while True:
            left = deadline - time.monotonic()
            try:
                if ref is None:
                    ref = self.send(shard, method, args)
                return self._accepted(shard, self._ray.get(ref, timeout=max(min(left, _TICK_S), 0)))
            except errors.RayTaskError:
                raise  # a mistake in a shard: its traceback is wanted
            except errors.GetTimeoutError as err:
                self._cluster.require_alive()
                if left <= 0:
                    raise DatastoreError(self._too_late(shard)) from err
            except errors.RayError as err:
                self._cluster.require_alive()
                deaths += isinstance(err, errors.ActorDiedError)
                if deaths > RESTARTS or isinstance(err, errors.ActorUnschedulableError):
                    raise DatastoreError(self._too_often(shard, err)) from err
                if left <= 0:
                    raise DatastoreError(self._too_late(shard)) from err
                time.sleep(min(_PAUSE_S, left))
                ref = None

    def _accepted(self, shard: int, reply: _Reply) -> Any:
        """Returns the value of a reply, after a look at who sent it."""
        if reply.error is not None:
            raise DatastoreError(f"shard {shard} on {reply.error}")
        if reply.identity is not None and reply.start != self._starts[shard]:
            before = self._identities[shard]
            if before is not None and before != replace(reply.identity, node=before.node):
                raise MismatchError(
                    f"shard {shard} was started anew on {reply.identity.node}, and is another than it was on"
                    f" {before.node}; give every node the same files and versions"
                )
            if before is not None:
                logger.warning("shard %d died on %s; started anew on %s", shard, before.node, reply.identity.node)
            self._starts[shard], self._identities[shard] = reply.start, reply.identity
        return reply.value

    def _start_actors(self, openers: Sequence[Callable[[], Any]]) -> list[Any]:
        offered, threads = self._ray.cluster_resources(), self._cluster.threads(self._count)
        remote, actors = self._ray.remote(_ShardActor), []
        for number, open_shard in enumerate(openers):
            place = f"shard-{number}-of-{self._count}"
            where = {"resources": {place: _SLICE}} if place in offered else {"scheduling_strategy": "SPREAD"}
            options = remote.options(num_cpus=_SLICE, max_restarts=RESTARTS, **where)
            actors.append(options.remote(open_shard, threads))
        return actors

    def _placed(self, arg: Any) -> Any:
        """Returns queries as a reference to one copy for all shards, and all else as it is."""
        if not isinstance(arg, Queries):
            return arg
        if self._shared[0] is not arg:
            self._cluster.require_alive()  # Ray ends the process where it cannot put something
            with self._cluster.one_line_errors():
                self._shared = (arg, self._ray.put(arg))
        return self._shared[1]

    def _too_late(self, shard: int) -> str:
        identity, time_s = self._identities[shard], f"{self.timeout:g} s (--knn-timeout)"
        if identity is None:
            return (
                f"shard {shard} was not open within {time_s}; `ray status` shows whether a node has room for it, and a"
                " larger --knn-timeout waits longer"
            )
        return (
            f"shard {shard} on {identity.node} has not answered within {time_s}; see whether that node is well, or"
            " give a larger --knn-timeout"
        )

    def _too_often(self, shard: int, err: Exception) -> str:
        identity, reason = self._identities[shard], last_line(err)
        if identity is None:
            return (
                f"shard {shard} could not be started ({reason}); start Ray on every node from an environment with the"
                " versions that are installed here"
            )
        return f"shard {shard} on {identity.node} died, {RESTARTS} restarts included ({reason}); look at its memory"


class _RayPending(Pending):
    """An answer of an actor on its way."""

    def __init__(self, backend: RayBackend, shard: int, method: str, args: tuple[Any, ...]) -> None:
        self._backend, self._call = backend, (shard, method, args)
        self._ref: Any = backend.send(shard, method, args)
        self._value: Any = None

    def result(self) -> Any:
        """Returns the answer; waits for it."""
        if self._ref is not None:
            self._value = self._backend.receive(*self._call, self._ref)
            self._ref = None
        return self._value


def _import_ray() -> Any:
    # Neither statistics of use, nor a change of what a process without a GPU sees, which Ray else warns of.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as err:
        raise ConfigError(
            "--knn-backend ray needs the package ray, which is not installed; pip install 'fairseq-knnlm[ray]'"
        ) from err
    return ray


def _use_threads(count: int) -> None:
    """Has torch and FAISS, as far as a shard has loaded them, use so many threads; Ray gives an actor one."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(count)
    if (faiss := sys.modules.get("faiss")) is not None:
        faiss.omp_set_num_threads(count)


def _in_words(err: Exception) -> str:
    if isinstance(err, OSError) and err.strerror:
        return f"{err.filename}: {err.strerror}" if err.filename else err.strerror
    return str(err) or type(err).__name__


def _this_node() -> str:
    """Returns the name of an actor's node for messages: host, address, and what Ray calls it."""
    import ray

    return f"{socket.gethostname()} (Ray node {ray.get_runtime_context().get_node_id()[:8]})"
