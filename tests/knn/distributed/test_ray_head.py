"""What answers at an address, and whether it takes our token: by stand-ins; test_ray.py asks a real head."""

import re
import socket
from pathlib import Path

import pytest

from fairseq.errors import ConfigError
from fairseq.knn.distributed.ray_head import (
    OK,
    UNAUTHENTICATED,
    address_of_this_machine,
    call_status,
    own_token,
    require_head,
)
from tests.builders.ray_head import server, trailers


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the home of a user who has no token, and has set nothing."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write_token(home: Path, token: str) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(token + "\n", encoding="utf-8")


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", "http://10.0.0.1:8265", ":6379", "a:b", "a:0"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--ray-address takes host:port, .* but is {address}$"):
        require_head(address, 5.0)


def test_where_nobody_is_no_cluster_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"^--ray-address {address}: no Ray cluster answers .*`ray start --head`"):
        require_head(address, 5.0)


def test_another_server_is_no_cluster() -> None:
    with server(http_1=True) as address, pytest.raises(ConfigError, match="no Ray cluster answers there"):
        require_head(address, 5.0)


def test_a_server_that_says_nothing_is_no_cluster() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the connection waits in its queue
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConfigError, match="no Ray cluster answers there"):
            require_head(address, 0.2)


def test_a_token_is_sent_along() -> None:
    with server(token="secret") as address:
        assert [call_status(address, 5.0, token) for token in (None, "wrong", "secret")] == [UNAUTHENTICATED] * 2 + [OK]


@pytest.mark.parametrize(
    "frames",
    [
        b"\0\0\1\1\5\0\0\0\1\x8d",  # status 404 of HTTP/2
        b"\0\0\1\1\4\0\0\0\1\x8d" + b"\0\0\2\0\1\0\0\0\1no",  # with a page
        trailers("12"),  # of gRPC, which does not know the call
    ],
)
def test_another_server_of_http_2_is_no_cluster(frames: bytes) -> None:
    with server(frames=frames) as address, pytest.raises(ConfigError, match="no Ray cluster answers there"):
        require_head(address, 5.0)


@pytest.mark.parametrize("frames", [b"\0\0\0\7\0\0\0\0\0", b"\xff\xff\xff\1\5\0\0\0\1"])
def test_an_answer_that_is_not_understood_is_left_to_ray(frames: bytes) -> None:
    with server(frames=frames) as address:
        assert call_status(address, 5.0) is None
        require_head(address, 5.0)


def test_with_tls_the_call_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(token="secret") as address:
        with pytest.raises(ConfigError, match="the cluster asks for a token"):
            require_head(address, 5.0)
        monkeypatch.setenv("RAY_USE_TLS", "1")
        require_head(address, 5.0)


@pytest.mark.parametrize(
    ("asks", "mode", "own", "expected"),
    [
        ("", "", "", None),
        ("", "disabled", "secret", None),
        ("", "", "secret", None),
        ("", "token", "secret", "the cluster asks for no token, but RAY_AUTH_MODE is token here; unset it here, or"),
        ("secret", "token", "secret", None),
        ("secret", "TOKEN", "secret", None),
        ("secret", "", "secret", "the cluster asks for a token; set RAY_AUTH_MODE=token "),
        ("secret", "disabled", "secret", "the cluster asks for a token; set RAY_AUTH_MODE=token "),
        ("secret", "", "", "the cluster asks for a token, and this user has none; copy ~/.ray/auth_token from"),
        ("secret", "token", "", "the cluster asks for a token, and this user has none; copy ~/.ray/auth_token from"),
        ("secret", "token", "wrong", "the cluster has another token than HOME/.ray/auth_token; give the one that "),
    ],
)
def test_a_cluster_is_joined_only_where_tokens_agree(
    home: Path, monkeypatch: pytest.MonkeyPatch, asks: str, mode: str, own: str, expected: str | None
) -> None:
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if own:
        write_token(home, own)
    with server(token=asks) as address:
        if expected is None:
            require_head(address, 5.0)
            return
        words = re.escape(f"--ray-address {address}: {expected.replace('HOME', str(home))}")
        with pytest.raises(ConfigError, match=f"^{words}"):
            require_head(address, 5.0)


def test_a_token_is_where_ray_looks_for_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_token() is None
    write_token(home, "of the home")
    assert own_token() == ("of the home", str(home / ".ray" / "auth_token"))
    (home / "file").write_text("of a file", encoding="utf-8")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "file"))
    assert own_token() == ("of a file", str(home / "file"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    assert own_token() == ("given", "RAY_AUTH_TOKEN")


@pytest.fixture
def note(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the file in which Ray notes the address of the cluster that it started last."""
    monkeypatch.setenv("RAY_TMPDIR", str(home))
    (home / "ray").mkdir()
    return home / "ray" / "ray_current_cluster"


def test_the_cluster_of_this_machine_is_found(home: Path, note: Path) -> None:
    assert address_of_this_machine(5.0) is None
    with server() as address:
        note.write_text(address, encoding="utf-8")
        assert address_of_this_machine(5.0) == (address, False)
    assert address_of_this_machine(5.0) is None  # it has ended
    write_token(home, "secret")
    with server(token="secret") as address:
        note.write_text(address, encoding="utf-8")
        assert address_of_this_machine(5.0) == (address, True)


def test_the_cluster_of_this_machine_may_have_another_token(
    home: Path, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_token(home, "wrong")
    with server(token="secret") as address:
        note.write_text(address, encoding="utf-8")
        with pytest.raises(ConfigError, match=f"^the Ray cluster on this machine, {address}: .* another token than "):
            address_of_this_machine(5.0)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(ConfigError, match="asks for a token; set RAY_AUTH_MODE=token"):
            address_of_this_machine(5.0)
