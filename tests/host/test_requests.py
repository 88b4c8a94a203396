"""A program answers requests at its socket, whoever asks and however badly."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thirdshift.host.requests import LONGEST_REQUEST_BYTES, MOST_CLIENTS, RequestServer, ask

PATIENCE_S = 0.5

pytestmark = pytest.mark.alone


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What the program under test says."""
    if request.get("order") == "fail":
        raise ValueError("it went wrong")
    return {"accepted": True, "you said": request, "large": "x" * request.get("size", 0)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "daemon.sock"


@pytest.fixture
def server(path: Path) -> Iterator[RequestServer]:
    with RequestServer(path, answer, patience_s=PATIENCE_S) as server:
        yield server


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(30)
    connection.connect(str(path))
    return connection


def line(connection: socket.socket) -> dict[str, Any]:
    """The next answer."""
    with connection.makefile() as file:
        found: dict[str, Any] = json.loads(file.readline())
    return found


def test_a_request_is_answered(server: RequestServer, path: Path) -> None:
    """Also one of several on one connection, and a long answer; the socket is this user's alone."""
    assert ask(path, {"order": "status"})["you said"] == {"order": "status"}
    assert len(ask(path, {"size": 3_000_000})["large"]) == 3_000_000
    with connect(path) as connection:
        connection.sendall(b'{"n": 1}\n{"n": 2}\n')
        with connection.makefile() as file:
            assert [json.loads(file.readline())["you said"]["n"] for _ in range(2)] == [1, 2]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_request_is_refused_with_the_reason(server: RequestServer, path: Path) -> None:
    """And the server goes on."""
    for sent, why in (
        (b"stop!\n", "no JSON"),
        (b"[]\n", "a JSON object"),
        (b"[" * 60_000 + b"\n", "no JSON"),
        (b"\xff\xfe\n", "no JSON"),
        (b'{"order": "fail"}\n', "it went wrong"),
        (b"x" * (LONGEST_REQUEST_BYTES + 1), "at most 65,536 bytes"),
        (b"x" * (LONGEST_REQUEST_BYTES + 1) + b"\n", "at most 65,536 bytes"),
    ):
        with connect(path) as connection:
            connection.sendall(sent)
            found = line(connection)
        assert found["accepted"] is False
        assert why in found["error"]
    assert ask(path, {})["accepted"]


def test_a_client_that_says_or_reads_nothing_is_dropped(server: RequestServer, path: Path) -> None:
    """Half a request, none at all, or an answer that nobody reads: others are answered meanwhile."""
    half, silent, deaf = connect(path), connect(path), connect(path)
    half.sendall(b'{"order"')
    deaf.sendall(b'{"size": 3000000}\n')
    assert ask(path, {})["accepted"]
    for connection in (half, silent):
        assert connection.recv(1) == b"", "it is hung up on"
    time.sleep(2 * PATIENCE_S)  # the deaf one's time, which cannot be seen from here
    received = b""
    while part := deaf.recv(1 << 20):
        received += part
    assert len(received) < 3_000_000
    for connection in (half, silent, deaf):
        connection.close()


def test_a_client_too_many_is_sent_away(server: RequestServer, path: Path) -> None:
    """Until another one leaves."""
    crowd = [connect(path) for _ in range(MOST_CLIENTS)]
    for connection in crowd:
        connection.sendall(b"{}\n")
        assert line(connection)["accepted"]
    with connect(path) as late:
        assert late.recv(1) == b""
    for connection in crowd:
        connection.close()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            assert ask(path, {})["accepted"]
            break
        except OSError:
            continue
    else:
        pytest.fail("nobody is answered any more")


def test_many_ask_at_once(server: RequestServer, path: Path) -> None:
    """Each gets its own answer."""
    wrong: list[object] = []

    def talk(number: int) -> None:
        for count in range(20):
            request = {"number": number, "count": count}
            if (found := ask(path, request)["you said"]) != request:
                wrong.append(found)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_socket_that_a_killed_program_left_is_replaced(path: Path) -> None:
    """Nobody answers at the old one; after a clean end there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    with pytest.raises(ConnectionRefusedError):
        ask(path, {})
    with RequestServer(path, answer):
        assert ask(path, {})["accepted"]
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        ask(path, {})


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux has other names for a long path")
def test_the_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    """A workspace deep in somebody's folders."""
    deep = tmp_path / ("long" * 30) / ("path" * 30)
    deep.mkdir(parents=True)
    with RequestServer(deep / "daemon.sock", answer):
        assert ask(deep / "daemon.sock", {})["accepted"]
    assert list(deep.iterdir()) == []
