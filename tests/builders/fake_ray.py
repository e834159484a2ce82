"""What ``ray_backend`` uses of Ray, in this process, with deaths on demand."""

import socket
from collections import Counter, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

NODE_ID = "0123456789abcdef"


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class GetTimeoutError(RayError, TimeoutError):
    pass


class ActorDiedError(RayError):
    pass


class ActorUnavailableError(RayError):
    pass


class ActorUnschedulableError(RayError):
    pass


class FakeRay:
    """A cluster of one node, whose head answers at a port of this machine.

    Attributes:
        deaths: errors that the next answers of an actor are instead, by its number; it is started anew after each.
        options: that each actor was started with.
        resources: that nodes offer.
        puts: how many objects were put.
        killed: actors that were ended.
    """

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        GetTimeoutError=GetTimeoutError,
        ActorDiedError=ActorDiedError,
        ActorUnavailableError=ActorUnavailableError,
        ActorUnschedulableError=ActorUnschedulableError,
    )

    def __init__(self) -> None:
        self.head = socket.create_server(("127.0.0.1", 0))
        self.deaths: dict[int, deque[Exception]] = {}
        self.options: list[dict[str, Any]] = []
        self.resources: dict[str, float] = {"CPU": 8.0}
        self.puts, self.killed = 0, 0
        self.calls: Counter[str] = Counter()
        self._private = SimpleNamespace(worker=SimpleNamespace())  # where Ray's messages are switched off

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.head.getsockname()[1]}"

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address=self.address, get_node_id=lambda: NODE_ID)

    def nodes(self) -> list[dict[str, Any]]:
        host, port = self.head.getsockname()
        own = {"NodeID": NODE_ID, "Alive": True, "NodeManagerAddress": host, "NodeManagerPort": port}
        return [{**own, "Resources": self.resources}]

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, actor: type) -> Any:
        return SimpleNamespace(options=lambda **options: self._options(actor, options))

    def _options(self, actor: type, options: dict[str, Any]) -> Any:
        self.options.append(options)
        number = len(self.options) - 1
        return SimpleNamespace(remote=lambda *args: _Actor(self, number, lambda: actor(*args)))

    def put(self, value: Any) -> "_Ref":
        self.puts += 1
        return _Ref(lambda: value)

    def get(self, ref: "_Ref", timeout: float) -> Any:
        return ref.value()

    def kill(self, actor: "_Actor") -> None:
        self.killed += 1


class _Ref:
    def __init__(self, value: Callable[[], Any]) -> None:
        self.value = value


class _Actor:
    def __init__(self, ray: FakeRay, number: int, start: Callable[[], Any]) -> None:
        self._ray, self._number, self._start, self._actor = ray, number, start, start()
        self.call = SimpleNamespace(remote=self._call)

    def _call(self, known: str, method: str, *args: Any) -> _Ref:
        self._ray.calls[method] += 1
        deaths = self._ray.deaths.get(self._number)
        if deaths and method != "identity":
            death = deaths.popleft()
            if not isinstance(death, GetTimeoutError):
                self._actor = self._start()
            return _Ref(lambda: _raise(death))
        args = tuple(arg.value() if isinstance(arg, _Ref) else arg for arg in args)
        reply = self._actor.call(known, method, *args)
        return _Ref(lambda: reply)


def _raise(err: Exception) -> Any:
    raise err
