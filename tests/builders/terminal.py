"""A terminal of a given width, and all that a process writes to it."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence


def shown_in_terminal(command: Sequence[str], columns: int = 90) -> tuple[int, str]:
    """Returns the exit code of a command, and what it has written to a terminal."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(command, stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen = b""
    with contextlib.suppress(OSError):  # Linux: the other end is closed
        while part := os.read(main, 65536):
            seen += part
    os.close(main)
    return child.wait(), seen.decode().replace("\r\n", "\n")
