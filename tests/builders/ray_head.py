"""A stand-in for the head of a cluster of Ray: what it answers to a call of gRPC; test_ray.py has a real one."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SETTINGS = b"\0\0\6\4\0\0\0\0\0" + b"\0\4\0\0\xff\xff"


@contextmanager
def server(*, token: str = "", frames: bytes = b"", http_1: bool = False) -> Iterator[str]:
    """Yields the address of a head, until the block ends.

    Args:
        token: that it asks for, unless it is empty.
        frames: sent instead of an answer to the call.
        http_1: whether it is no head, but a server of web pages.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    asked = connection.recv(1 << 14)
                    if http_1:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                        continue
                    refused = token and b"\x0dauthorization" + _text(f"Bearer {token}") not in asked
                    connection.sendall(_SETTINGS + (frames or trailers("16" if refused else "0")))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def trailers(status: str) -> bytes:
    """Returns the frame that ends a call of gRPC with a status."""
    payload = (
        b"\x88\0" + _text("content-type") + _text("application/grpc") + b"\0" + _text("grpc-status") + _text(status)
    )
    return len(payload).to_bytes(3, "big") + b"\1\5\0\0\0\1" + payload


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
