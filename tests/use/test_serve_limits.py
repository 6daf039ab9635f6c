"""What callers cannot do to the server: keep others out, fill its log, be misunderstood."""

import contextlib
import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import begin
from use.serving_client import SECONDS, rows_of, served

from fedlease.use.open_run import OpenRun
from fedlease.use.serving.requests import MAX_KEYS

pytest.importorskip("fastapi", reason="fedlease[serve] is not installed")
pytest.importorskip("uvicorn", reason="fedlease[serve] is not installed")
httpx = pytest.importorskip("httpx", reason="fedlease[dev] is not installed")

from fedlease.use.serving import connections as limits  # noqa: E402  after what may not be installed

ONE: Any = {"client": "planted-0-0", "rows": rows_of("zib")}
HALF_HEADER = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-Half: "
HALF_BODY = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n[1, 2"
LINES = 50
"""More would be a log that grows with what callers do."""


@pytest.fixture(scope="module")
def client(run: OpenRun) -> Iterator[Any]:
    with served(run, max_rows=20) as client:
        yield client


@contextlib.contextmanager
def sockets(port: int, number: int, begun: bytes) -> Iterator[list[socket.socket]]:
    """Connections that begin a request and send no more of it."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SECONDS))
            with contextlib.suppress(ConnectionError):  # it has made room already
                connection.sendall(begun)
            opened.append(connection)
        yield opened


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestConnections:
    @pytest.mark.parametrize("begun", [b"", HALF_HEADER, HALF_BODY], ids=["nothing", "half a header", "half a body"])
    def test_who_sends_nothing_or_halves_keeps_nobody_out(self, begun: bytes, run: OpenRun) -> None:
        with served(run, connections=20) as client, sockets(client.base_url.port, 60, begun) as opened:
            # The 60 have the places of each other: at most 20 are left, and every new one takes one of them.
            for _ in range(3):
                with httpx.Client(base_url=client.base_url, timeout=SECONDS, trust_env=False) as other:
                    assert other.post("/predict", json=ONE).status_code == 200
            wait_for(lambda: sum(map(is_closed, opened)) >= 40)
            assert len(client.server.server_state.connections) <= 20

    def test_a_request_that_is_being_answered_loses_its_place_to_nobody(self, run: OpenRun) -> None:
        with served(run, connections=8, wait_ms=1500) as client:
            answers: list[int] = []
            ask = threading.Thread(target=lambda: answers.append(client.post("/predict", json=ONE).status_code))
            ask.start()
            wait_for(lambda: client.app.state.batcher._waiting)
            with sockets(client.base_url.port, 30, HALF_HEADER):
                ask.join(SECONDS)
            assert answers == [200]

    def test_waiting_ends(self, run: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "HEADER_SECONDS", 0.3)
        whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with served(run) as client:
            for begun in (b"", HALF_HEADER, whole, whole + HALF_HEADER):
                with sockets(client.base_url.port, 1, begun) as (connection,):
                    if whole in begun:
                        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
                    wait_for(lambda connection=connection: is_closed(connection))

    def test_a_header_that_arrives_byte_by_byte_is_no_way_to_stay(
        self, run: OpenRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "HEADER_SECONDS", 0.5)
        with served(run) as client, sockets(client.base_url.port, 1, HALF_HEADER) as (connection,):
            begun = time.monotonic()
            with pytest.raises(ConnectionError):
                for _ in itertools.count():
                    connection.sendall(b"x")
                    time.sleep(0.05)
                    assert time.monotonic() - begun < SECONDS

    def test_who_does_not_read_its_answers_is_left(self, run: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "ANSWER_SECONDS", 0.3)
        with served(run) as client, socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(SECONDS)
            connection.connect(("127.0.0.1", client.base_url.port))
            # Some 5 kB each: more than all buffers between hold.
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3000)
            wait_for(lambda: not client.server.server_state.connections)

    def test_files_and_memory_bound_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resource = pytest.importorskip("resource")
        monkeypatch.setattr("os.listdir", lambda _: ["0"] * 60)
        for soft, expected in ((10**6, 512), (resource.RLIM_INFINITY, 512), (256, 100), (64, 8)):
            monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
            assert limits.most_connections(1_000_000) == expected  # 256 - 60 - 2 * 32 - 32
        monkeypatch.setattr(resource, "getrlimit", lambda _: (10**6, 10**6))
        assert limits.most_connections(2**26) == 16  # 2**30 / 2**26

    @pytest.mark.slow
    def test_a_process_with_few_files_answers_among_four_hundred_half_requests(self, out: Path, tmp_path: Path) -> None:
        pytest.importorskip("resource")
        running = begin("serve", out, "--port", "0", "--quiet", streams=tmp_path, files=256)
        try:
            url = running.line()
            with (
                sockets(int(url.rsplit(":", 1)[1]), 400, HALF_HEADER),
                httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client,
            ):
                for _ in range(3):
                    assert client.post("/predict", json=ONE).status_code == 200
                    time.sleep(0.5)
            running.process.terminate()
            assert running.ended(SECONDS) == 0
        finally:
            running.process.kill()
        assert running.err.read_text().count("\n") < LINES


class TestLog:
    def test_lines_of_one_kind_are_few_in_a_minute(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [1000.0]
        monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
        log = logging.getLogger("uvicorn.error")
        with limits.SparingLog():
            for number in range(10_000):
                log.warning(f"Invalid request {number}")
            log.warning("another kind")
            assert len(caplog.records) == limits.LOG_LINES + 1
            assert caplog.records[-2].getMessage() == (
                "Invalid request 19 (further lines like this are left out for 60 s)"
            )
            now[0] += 60
            for _ in range(100):
                log.warning("later")  # a line of its own
            assert len(caplog.records) == 2 * limits.LOG_LINES + 1
        log.warning("no server is left")
        assert caplog.records[-1].getMessage() == "no server is left"

    def test_what_is_no_http_fills_no_log(self, run: OpenRun, capsys: pytest.CaptureFixture[str]) -> None:
        with limits.SparingLog(), served(run) as client:
            for _ in range(60):
                with sockets(client.base_url.port, 1, b"\x1b[2J\r\n\r\n") as (connection,):
                    assert connection.recv(100).startswith(b"HTTP/1.1 400")
        said = capsys.readouterr().err
        assert said.count("\n") == limits.LOG_LINES
        assert "\x1b" not in said


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b'{"client": "planted-0-0", "client": "x", "rows": []}', "the key 'client' is given twice"),
            (b'{"client": "planted-0-0", "rows": [{"text": "a", "text": "b"}]}', "the key 'text' is given twice"),
            (b'{"requests": [], "requests": []}', "the key 'requests' is given twice"),
            (b'{"\\u001b": 1, "\\u001b": 2}', r"the key '\x1b' is given twice"),
            (b'{"\\ud800": 1, "\\ud800": 2}', r"the key '\ud800' is given twice"),
            (b'{"x": {"a": {"b": 1, "b": 1}}}', "the key 'b' is given twice"),
            (json.dumps(dict.fromkeys(map(str, range(MAX_KEYS + 1)))).encode(), "may have 32 keys, one has 33"),
            (b'{"client": "a", "rows": ' + b"[" * 100_000, "not usable JSON"),
        ],
    )
    def test_json_that_can_be_read_in_two_ways_or_is_no_request_is_refused(
        self, body: bytes, said: str, client: Any
    ) -> None:
        answer = client.post("/predict", content=body)
        assert (answer.status_code, said in answer.json()["error"]) == (400, True), answer.text

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"client": "planted-0-0", "rows": [{}] * 200_000}, "rows: at most 20 in a request, received 200000"),
            ({"requests": [{}] * 200_000}, "requests: at most 20 in a request, received 200000"),
            ({"requests": [{"rows": [1] * 15}, {"rows": [1] * 15}]}, "rows: at most 20 in a request, received 30"),
        ],
    )
    def test_rows_are_counted_before_each_of_them_can_be_a_fault(self, body: Any, said: str, client: Any) -> None:
        answer = client.post("/predict", json=body)
        assert (answer.status_code, answer.json()["error"]) == (422, said)


class TestContentTypes:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Content-Type": "application/json"},
            {"Content-Type": "Application/JSON; Charset=UTF-8"},
            {"Content-Type": "application/vnd.acme+json"},
            {"Content-Type": "application/x-www-form-urlencoded"},  # what curl -d says of every body
            {"Content-Type": "application/json", "Origin": "https://dashboard.example"},
        ],
    )
    def test_json_is_taken_and_what_curl_sends(self, headers: dict[str, str], client: Any) -> None:
        assert client.post("/predict", content=json.dumps(ONE), headers=headers).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Type": "text/plain"},
            {"Content-Type": "text/plain; note=application/json"},
            {"Content-Type": "multipart/form-data; boundary=x"},
            {"Content-Type": "application/xml"},
            {"Content-Type": "text/json"},
            {"Content-Type": "application/json; charset=latin-1"},
            {"Content-Type": "json\x1b[2J"},
            # What a page can send to any address without leave: forms, and bodies without a type.
            {"Content-Type": "application/x-www-form-urlencoded", "Origin": "https://attacker.example"},
            {"Content-Type": "application/x-www-form-urlencoded", "Referer": "https://attacker.example/"},
            {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "cross-site"},
            {"Origin": "null"},
        ],
    )
    def test_everything_else_is_refused_by_name(self, headers: dict[str, str], client: Any) -> None:
        answer = client.post("/predict", content=json.dumps(ONE), headers=headers)
        declared = headers.get("Content-Type", "")
        assert answer.status_code == 415
        error = f"the content type must be application/json in UTF-8, received {declared!r}"
        assert answer.json() == {"error": error}

    def test_two_types_are_no_type(self, client: Any) -> None:
        two = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
        assert client.post("/predict", content=json.dumps(ONE), headers=two).status_code == 415
