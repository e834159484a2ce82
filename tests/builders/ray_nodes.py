"""A cluster of Ray on this machine, for tests: nodes that can be killed, and added."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class RayNodes:
    """A head, and nodes that have actors.

    Attributes:
        address: of the head.
    """

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child
        self.address = self._answer()

    def kill_one(self) -> None:
        """Ends the newest node, as a power cut does."""
        self._say("kill")

    def add_one(self) -> None:
        """Starts a node."""
        self._say("add")

    def _say(self, word: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(word + "\n")
        self._child.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline().strip()
        assert line, "the cluster has ended"
        return line


@contextmanager
def ray_nodes(token: str) -> Iterator[RayNodes]:
    """Starts a cluster that asks for a token, and ends it."""
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets have names of at most 107 characters
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    command = [sys.executable, "-m", "tests.builders.ray_nodes_child", directory]
    with (
        (Path(directory) / "stderr").open("wb") as stderr,
        subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as child,
    ):
        try:
            yield RayNodes(child)
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(60)
    shutil.rmtree(directory, ignore_errors=True)
