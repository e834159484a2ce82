"""The head of a cluster of Ray, asked before Ray asks it: whether one answers there, and whether it takes our token.

Ray waits for minutes where another server answers. Where tokens differ it prints for half a minute what says nothing,
or it joins, and then loses every actor. So one call of gRPC is made by hand (RFC 9113): "are you alive?"

    RAY_AUTH_MODE here    the head asks for no token    the head asks for one
    ──────────────────    ──────────────────────────    ──────────────────────────────────────────────────────
    token                 refused, in one line          joined, if this user's token is the head's
    disabled              joined                        refused
    not set               joined                        refused where an address is given; the cluster that was
                                                        started on this machine is joined with the user's token
"""

import os
import re
import socket
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from fairseq.errors import ConfigError

OK, UNIMPLEMENTED, UNAUTHENTICATED = 0, 12, 16  # statuses of gRPC

_METHOD = b"/ray.rpc.NodeInfoGcsService/CheckAlive"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4  # types of frames
_END_STREAM, _END_HEADERS = 1, 4  # flags of frames
_MOST_FRAMES, _LARGEST_FRAME = 32, 1 << 14
_STATUS = re.compile(rb"grpc-status[\x01\x02](\d{1,2})")  # gRPC sends its own headers as plain text, after their length


def is_host_and_port(address: str) -> bool:
    """Returns whether an address has the form ``host:port``."""
    host, _, port = address.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal() and 0 < int(port) < 1 << 16


def answers(address: str, timeout: float) -> bool:
    """Returns whether anything listens at an address."""
    try:
        _connection(address, timeout).close()
    except OSError:
        return False
    return True


def call_status(address: str, timeout: float, token: str | None = None) -> int | None:
    """Returns the status of a call, such as ``UNAUTHENTICATED``; None where it cannot be told, as with TLS.

    Args:
        address: ``host:port``.
        timeout: seconds for each part of the answer.
        token: that is sent along.

    Raises:
        OSError: nothing answers there, or what answers is no head.
    """
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        _connection(address, timeout).close()
        return None
    with _connection(address, timeout) as connection, connection.makefile("rb") as answer:
        connection.sendall(_request(address, token))
        frames = islice(_frames(answer), _MOST_FRAMES)
        if next(frames, (None,))[0] != _SETTINGS:
            raise OSError(f"{address} does not answer in gRPC")
        for kind, flags, payload in frames:
            if kind in (_HEADERS, _DATA) and flags & _END_STREAM:
                status = _STATUS.search(payload)
                if status is None or int(status[1]) == UNIMPLEMENTED:
                    raise OSError(f"{address} is no head of a cluster")
                return int(status[1])
    return None


def require_head(address: str, timeout: float) -> None:
    """Raises ConfigError where this process cannot join the cluster of a head.

    Args:
        address: of the head, as the user gave it.
        timeout: the most seconds to wait for an answer.
    """
    where = f"--ray-address {address}"
    if not is_host_and_port(address):
        raise ConfigError(f"--ray-address takes host:port, as `ray start --head` prints it, or local, but is {address}")
    try:
        status = call_status(address, timeout)
    except OSError as err:
        raise ConfigError(
            f"{where}: no Ray cluster answers there (tried for {timeout:g} s at the most); start one with"
            " `ray start --head`, and give the address that it prints for other nodes"
        ) from err
    if status == UNAUTHENTICATED:
        _require_token(where, address, timeout, is_sent=auth_mode() == "token")
    elif status == OK:
        _require_no_token(where)


def address_of_this_machine(timeout: float) -> tuple[str, bool] | None:
    """Returns the address of the cluster that `ray start` began last on this machine, and whether it asks for a token.

    None where none is alive. Raises ConfigError where this process cannot join it.
    """
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        address = file.read_text(encoding="utf-8").strip()
        if not is_host_and_port(address):
            return None
        status = call_status(address, timeout)
    except OSError:
        return None
    where = f"the Ray cluster on this machine, {address}"
    if status == UNAUTHENTICATED:
        _require_token(where, address, timeout, is_sent=auth_mode() in ("", "token"))
    elif status == OK:
        _require_no_token(where)
    return address, status == UNAUTHENTICATED


def auth_mode() -> str:
    """Returns RAY_AUTH_MODE: ``token``, ``disabled``, or empty."""
    return os.environ.get("RAY_AUTH_MODE", "").lower()


def own_token() -> tuple[str, str] | None:
    """Returns the token that Ray takes in this process, and where it is from; None if there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return (token, str(path)) if token else None


def _require_token(where: str, address: str, timeout: float, *, is_sent: bool) -> None:
    own = own_token()
    if own is None:
        raise ConfigError(
            f"{where}: the cluster asks for a token, and this user has none; copy ~/.ray/auth_token from the machine of"
            " its head, and set RAY_AUTH_MODE=token here"
        )
    if not is_sent:
        raise ConfigError(
            f"{where}: the cluster asks for a token; set RAY_AUTH_MODE=token here, as for `ray start --address`"
        )
    token, place = own
    if call_status(address, timeout, token) == UNAUTHENTICATED:
        raise ConfigError(
            f"{where}: the cluster has another token than {place}; give the one that `ray get-auth-token` prints on the"
            " machine of its head"
        )


def _require_no_token(where: str) -> None:
    if auth_mode() == "token":
        raise ConfigError(
            f"{where}: the cluster asks for no token, but RAY_AUTH_MODE is token here; unset it here, or set it where"
            " `ray start` is given"
        )


def _connection(address: str, timeout: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


def _request(address: str, token: str | None) -> bytes:
    """Returns the bytes of a call without arguments: what HTTP/2 begins with, headers, and an empty message."""
    fields = {
        b":path": _METHOD,
        b":authority": address.encode(),
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    if token is not None:
        fields[b"authorization"] = b"Bearer " + token.encode()
    headers = b"\x83\x86" + b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, headers)
        + _frame(_DATA, _END_STREAM, 1, bytes(5))
    )


def _frames(answer: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yields type, flags and content of each frame, up to one that is no HTTP/2."""
    while len(head := answer.read(9)) == 9 and (size := int.from_bytes(head[:3], "big")) <= _LARGEST_FRAME:
        yield head[3], head[4], answer.read(size)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _text(value: bytes) -> bytes:
    """Returns a header's name or value as HPACK has it, uncompressed (RFC 7541, 5.2): its length in 7 bits, or more."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    size, length = b"\x7f", len(value) - 127
    while length >= 128:
        size, length = size + bytes([length % 128 | 128]), length // 128
    return size + bytes([length]) + value
