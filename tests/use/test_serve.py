"""The server over a real socket: right answers in company, and a JSON error for everything else."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import begin
from small import own_rows, small_run
from use.serving_client import SECONDS, rows_of, served

import fedlease
from fedlease.errors import ConfigError, RunFolderError
from fedlease.use.open_run import OpenRun
from fedlease.use.serving import bodies
from fedlease.use.serving import serve as serving
from fedlease.use.serving.batcher import Batcher, QueueFullError
from fedlease.use.serving.requests import MAX_CHARACTERS

pytest.importorskip("fastapi", reason="fedlease[serve] is not installed")
pytest.importorskip("uvicorn", reason="fedlease[serve] is not installed")
httpx = pytest.importorskip("httpx", reason="fedlease[dev] is not installed")

TEXTS = ["zib", "a much longer text than the others here", "kulo mab", "nee nee nee"]


@pytest.fixture(scope="module")
def client(out: Path) -> Iterator[Any]:
    with served(OpenRun(out), max_body_bytes=100_000, max_rows=20) as client:
        yield client


@pytest.fixture(scope="module")
def expected(out: Path) -> dict[tuple[str, str], dict[str, float]]:
    """(client, text) -> label -> probability, by the loaded model, row by row."""
    tokenizer = fedlease.tokenizer(out)
    found = {}
    for client in OpenRun(out).clients:
        model = fedlease.load(out, client)
        for text in TEXTS:
            batch = tokenizer([text], truncation=True, max_length=24, return_tensors="pt")
            with torch.inference_mode():
                values = model(**batch).logits[0].softmax(-1).tolist()
            found[client, text] = dict(zip(model.config.id2label.values(), values, strict=True))
    return found


def assert_answers(answer: dict[str, Any], client: str, texts: list[str], expected: Any) -> None:
    assert answer["client"] == client
    for text, prediction in zip(texts, answer["predictions"], strict=True):
        right = expected[client, text]
        assert list(prediction["probabilities"]) == list(right)
        assert list(prediction["probabilities"].values()) == pytest.approx(list(right.values()), abs=1e-5)
        assert prediction["label"] == max(right, key=right.__getitem__)
        assert prediction["probability"] == max(prediction["probabilities"].values())


class TestHosts:
    """A page whose own name resolves to this machine must not read what is answered here."""

    def test_a_foreign_host_name_is_turned_away(self, client: Any) -> None:
        answer = client.get("/clients", headers={"Host": "attacker.example:8000"})
        assert answer.status_code == 400
        assert answer.json() == {"error": "this server is not called 'attacker.example'"}

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
    def test_this_machines_own_names_are_answered(self, client: Any, host: str) -> None:
        assert client.get("/health", headers={"Host": host}).status_code == 200

    def test_without_a_list_every_name_is_answered(self, out: Path) -> None:
        with served(OpenRun(out), hosts=None) as open_to_all:
            assert open_to_all.get("/health", headers={"Host": "proxy.example"}).status_code == 200


class TestAnswers:
    def test_health(self, client: Any, out: Path) -> None:
        answer = client.get("/health")
        assert answer.status_code == 200
        num = len(OpenRun(out).clients)
        version = fedlease.__version__
        said = {"status": "ok", "run": out.name, "method": "fedlease", "clients": num, "version": version}
        assert answer.json() == said

    def test_clients(self, client: Any, out: Path) -> None:
        run = OpenRun(out)
        answer = client.get("/clients").json()["clients"]
        assert [one["id"] for one in answer] == list(run.clients)
        for one in answer:
            known = run.client(one["id"])
            assert one == {"id": known.id, "task": known.task, "labels": list(known.labels), "pairs": False}

    def test_one_client(self, client: Any, expected: Any) -> None:
        for name in ("planted-0-0", "planted-1-1"):
            answer = client.post("/predict", json={"client": name, "rows": rows_of(*TEXTS)})
            assert answer.status_code == 200
            assert_answers(answer.json(), name, TEXTS, expected)

    def test_several_clients_and_one_of_them_twice(self, client: Any, expected: Any) -> None:
        asked = [("planted-1-0", TEXTS[:2]), ("planted-0-0", TEXTS[2:]), ("planted-1-0", TEXTS[::-1])]
        body = {"requests": [{"client": name, "rows": rows_of(*texts)} for name, texts in asked]}
        results = client.post("/predict", json=body).json()["results"]
        for answer, (name, texts) in zip(results, asked, strict=True):
            assert_answers(answer, name, texts, expected)

    def test_forty_at_once_share_batches_and_each_gets_its_own(self, out: Path, expected: Any) -> None:
        names = list(OpenRun(out).clients)
        with served(OpenRun(out), wait_ms=100) as client, ThreadPoolExecutor(40) as pool:

            def ask(i: int) -> tuple[str, list[str], dict[str, Any]]:
                name, texts = names[i % len(names)], [TEXTS[(i + j) % 4] for j in range(1 + i % 3)]
                return name, texts, client.post("/predict", json={"client": name, "rows": rows_of(*texts)}).json()

            for name, texts, answer in pool.map(ask, range(40)):
                assert_answers(answer, name, texts, expected)
            assert client.app.state.batcher.batches < 20

    def test_more_rows_than_a_batch_holds(self, out: Path, expected: Any) -> None:
        with served(OpenRun(out), max_batch=3, wait_ms=0) as client:
            answer = client.post("/predict", json={"client": "planted-0-1", "rows": rows_of(*TEXTS, *TEXTS)}).json()
            assert_answers(answer, "planted-0-1", TEXTS * 2, expected)
            assert client.app.state.batcher.batches == 3

    def test_openapi_describes_both_forms_and_no_page_fetches_from_elsewhere(self, client: Any) -> None:
        described = client.get("/openapi.json").json()
        body = described["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        names = [form["$ref"].rsplit("/", 1)[1] for form in body["anyOf"]]
        assert names == ["ClientRows", "SeveralClients"]
        references = {part.split('"')[0] for part in json.dumps(described).split("#/components/schemas/")[1:]}
        assert references <= set(described["components"]["schemas"])
        assert client.get("/redoc").status_code == 404


class TestPairs:
    def test_they_are_asked_for_and_computed_beside_single_texts(self, tmp_path: Path) -> None:
        own_rows(tmp_path / "data")
        for name in ("one", "two"):
            for file in (tmp_path / "data" / name).iterdir():
                rows = [json.loads(line) for line in file.read_text().splitlines()]
                file.write_text("".join(json.dumps({**row, "text_pair": "other"}) + "\n" for row in rows))
        out = small_run(tmp_path / "r", baselines=[], rounds=0, data__path=str(tmp_path / "data")).out
        run = OpenRun(out)
        assert [known.pairs for known in run.clients.values()] == [False, True, False, True]  # four, one, three, two
        pair, single = {"text": "zib", "text_pair": "mab nee"}, {"text": "zib"}
        with served(run) as client:

            def ask(name: str, *rows: dict[str, str]) -> Any:
                return client.post("/predict", json={"client": name, "rows": rows})

            body = {"requests": [{"client": n, "rows": [r]} for n, r in (("one", pair), ("four", single))]}
            together = client.post("/predict", json=body).json()["results"]
            tokenizer = fedlease.tokenizer(out)
            for answer, texts in zip(together, (("zib", "mab nee"), ("zib",)), strict=True):
                batch = tokenizer(*texts, truncation=True, max_length=24, return_tensors="pt")
                with torch.inference_mode():
                    values = fedlease.load(out, answer["client"])(**batch).logits[0].softmax(-1).tolist()
                found = list(answer["predictions"][0]["probabilities"].values())
                assert found == pytest.approx(values, abs=1e-5)
            missing, unwanted = ask("one", pair, single), ask("four", single, single, pair)
            assert missing.status_code == unwanted.status_code == 422
            assert missing.json() == {"error": "rows.1.text_pair: is missing: the client's rows are pairs"}
            assert unwanted.json() == {"error": "rows.2.text_pair: must be absent: its rows are no pairs"}


SECRET = "what a row says"
ROWS: Any = rows_of("x")
ONE: Any = {"client": "planted-0-0", "rows": ROWS}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not usable JSON: Expecting value"),
        (b'{"client": ', 400, "not usable JSON: Expecting value"),
        (b'{"client": "\xff"}', 400, "not UTF-8: byte 12"),
        (b'{"client": NaN}', 400, "NaN is no JSON number"),
        (b'{"client": -Infinity}', 400, "-Infinity is no JSON number"),
        (b"[" * 50_000, 400, "not usable JSON"),
        (b"1" * 5000, 400, "not usable JSON"),
        (b"[]", 422, "valid dictionary"),
        (b"null", 422, "valid dictionary"),
        ({}, 422, "client: Field required"),
        ({"client": "planted-0-0"}, 422, "rows: Field required"),
        ({"client": 5, "rows": ROWS}, 422, "client: Input should be a valid string"),
        ({"client": "planted-0-0", "rows": []}, 422, "rows: List should have at least 1 item"),
        ({"client": "planted-0-0", "rows": "x"}, 422, "rows: Input should be a valid list"),
        ({"client": "planted-0-0", "rows": ["x"]}, 422, "rows.0: Input should be"),
        ({"client": "planted-0-0", "rows": [{}]}, 422, "rows.0.text: Field required"),
        ({"client": "planted-0-0", "rows": [*ROWS, {"text": 5}]}, 422, "rows.1.text: Input should be a valid string"),
        ({"client": "planted-0-0", "rows": [{"text": None}]}, 422, "rows.0.text: Input should be a valid string"),
        ({"client": "planted-0-0", "rows": [{"text": " \n"}]}, 422, "a text must not be empty"),
        ({"client": "planted-0-0", "rows": [{"text": "\ud800"}]}, 422, "rows.0.text: Input should be a valid string"),
        ({"client": "planted-0-0", "rows": [{"text": "x" * (MAX_CHARACTERS + 1)}]}, 422, "at most 50000 characters"),
        ({"client": "planted-0-0", "rows": [{"text": "x", "label": 1}]}, 422, "rows.0.label: Extra inputs are not"),
        ({"client": "planted-0-0", "rows": [{"text": "x", "\ud800": 1}]}, 422, "rows.0"),
        ({**ONE, "model": "x"}, 422, "model: Extra inputs are not permitted"),
        ({"client": "planted-0-0", "rows": [{"text": "x", "text_pair": "y"}]}, 422, "text_pair: must be absent"),
        ({"client": "planted-0-0", "rows": ROWS * 21}, 422, "rows: at most 20 in a request, received 21"),
        ({"requests": []}, 422, "requests: List should have at least 1 item"),
        ({"requests": [ONE], "client": "planted-0-0"}, 422, "client: Extra inputs are not permitted"),
        ({"requests": [ONE, {"client": "planted-0-0", "rows": ROWS * 20}]}, 422, "received 21"),
        ({"requests": [ONE, {"client": "nobody", "rows": ROWS}]}, 404, "no such client: 'nobody'"),
        ({"client": "nobody", "rows": ROWS}, 404, "no such client: 'nobody'; the run has "),
        ({"client": "\ud800", "rows": ROWS}, 404, r"no such client: '\ud800'"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(body: Any, status: int, said: str, client: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/predict", content=content)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert said in answer.json()["error"]
    assert "Traceback" not in answer.text
    if status == 404:
        assert "planted-0-0" in answer.json()["clients"]


class TestRefusals:
    def test_every_fault_of_a_body_is_told_but_not_its_rows(self, client: Any) -> None:
        rows = [{"text": "x", "secret-key": "secret value"}, {"text": 5}, {"text": ""}] * 4
        answer = client.post("/predict", json={"client": "planted-0-0", "rows": rows}).json()
        assert answer["num_faults"] == 12
        assert len(answer["faults"]) == 10
        assert answer["error"] == answer["faults"][0]
        assert "secret value" not in json.dumps(answer)

    def test_paths_and_methods(self, client: Any) -> None:
        for path in ("/", "/predict/", "/nothing"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]) == (404, f"no such path: {path}")
        answer = client.get("/predict")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.json() == {"error": "GET is not for /predict"}
        assert client.post("/health").status_code == 405

    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body_that_is_too_large(self, chunked: bool, client: Any) -> None:
        for size, status in ((100_000, 400), (100_001, 413), (3_000_000, 413)):
            content: Any = b"x" * size
            if chunked:
                content = iter([content[i : i + 50_000] for i in range(0, size, 50_000)])
            answer = client.post("/predict", content=content)
            assert answer.status_code == status
        assert answer.json() == {"error": "the body must be at most 100000 bytes"}
        assert client.get("/health").status_code == 200

    def raw(self, client: Any, head: str, body: bytes = b"", *, end: bool = False) -> bytes:
        with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=SECONDS) as connection:
            connection.sendall(f"POST /predict HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode() + body)
            if end:
                connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)

    def test_a_content_length_that_lies(self, client: Any) -> None:
        # More than stated: the rest is no part of this request.
        assert self.raw(client, "Content-Length: 5", b"[1, 2" + b"x" * 1000).startswith(b"HTTP/1.1 400")
        # Far more stated than allowed: refused before it is sent.
        started = time.monotonic()
        assert self.raw(client, "Content-Length: 999999999999").startswith(b"HTTP/1.1 413")
        asked = self.raw(client, "Content-Length: 200000\r\nExpect: 100-continue")
        assert asked.startswith(b"HTTP/1.1 413")
        assert time.monotonic() - started < 3
        # Less than stated, then nothing more: the connection is over and the server is not.
        self.raw(client, "Content-Length: 500", b"[1, 2", end=True)
        assert client.get("/health").status_code == 200

    def test_a_body_that_does_not_arrive(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
        monkeypatch.setattr(bodies, "DRAIN_SECONDS", 0.2)
        assert self.raw(client, "Content-Length: 500", b"[1, 2").startswith(b"HTTP/1.1 408")
        assert self.raw(client, "Content-Length: 200000", b"[1, 2").startswith(b"HTTP/1.1 413")

    def test_too_many_waiting_rows_and_requests(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with (
            served(OpenRun(out), wait_ms=60_000, max_batch=4, max_waiting=3) as client,
            ThreadPoolExecutor(2) as pool,
        ):
            first = pool.submit(client.post, "/predict", json={"client": "planted-0-0", "rows": ROWS * 2})
            deadline = time.monotonic() + SECONDS
            while not client.app.state.batcher._waiting and time.monotonic() < deadline:
                time.sleep(0.01)
            full = client.post("/predict", json={"client": "planted-0-0", "rows": ROWS * 2})
            assert (full.status_code, full.json()) == (503, {"error": "too many rows wait"})
            assert full.headers["retry-after"] == "1"
            monkeypatch.setattr(bodies, "MAX_REQUESTS", 1)
            busy = client.post("/predict", json=ONE)
            assert (busy.status_code, busy.json()) == (503, {"error": "too many requests at a time"})
            client.app.state.batcher.close()  # ends the waiting
            assert first.result(SECONDS).status_code == 200
            assert client.post("/predict", json=ONE).status_code == 500

    def test_a_failure_leaks_neither_traceback_nor_rows_and_spares_the_others(
        self, out: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = OpenRun(out)
        with served(run, wait_ms=200) as client, ThreadPoolExecutor(2) as pool:
            intact = run.model

            def model(name: str) -> Any:
                if name == "planted-1-1":
                    raise RuntimeError(f"quotes {SECRET}")
                return intact(name)

            client.app.state.batcher._compute.mixed._models = model
            bodies = [{"client": name, "rows": rows_of("zib")} for name in ("planted-1-1", "planted-1-0")]
            bad, good = pool.map(lambda body: client.post("/predict", json=body), bodies)
        assert (bad.status_code, good.status_code) == (500, 200)
        assert bad.json() == {"error": "the server failed on this request; its log says where"}
        assert "a request failed: RuntimeError" in caplog.text
        assert SECRET not in caplog.text


class TestBatcher:
    def test_batches_are_full_and_answers_in_order(self) -> None:
        seen: list[list[int]] = []

        def compute(rows: Any) -> list[int]:
            seen.append(list(rows))
            return [10 * row for row in rows]

        batcher: Batcher[int, int] = Batcher(compute, max_batch=4, wait_ms=60_000, max_waiting=100)
        futures = [batcher.submit(rows) for rows in ([1, 2], [3], [4, 5, 6], [7])]
        batcher.close()
        assert [future.result(SECONDS) for future in futures] == [[10, 20], [30], [40, 50, 60], [70]]
        assert (seen, batcher.batches) == ([[1, 2, 3, 4], [5, 6, 7]], 2)
        with pytest.raises(RuntimeError, match="closed"):
            batcher.submit([1])

    def test_the_failure_of_one_request_is_its_own(self) -> None:
        def compute(rows: Any) -> list[int]:
            if 0 in rows:
                raise ZeroDivisionError
            return list(rows)

        batcher: Batcher[int, int] = Batcher(compute, max_batch=3, wait_ms=60_000, max_waiting=100)
        good, bad, other = (batcher.submit(rows) for rows in ([1], [0, 2, 3, 4], [5]))
        batcher.close()
        assert (good.result(SECONDS), other.result(SECONDS)) == ([1], [5])
        with pytest.raises(ZeroDivisionError):
            bad.result(SECONDS)

    def test_who_gives_up_is_not_computed(self) -> None:
        seen: list[int] = []

        def compute(rows: Any) -> list[int]:
            seen.extend(rows)
            return list(rows)

        batcher: Batcher[int, int] = Batcher(compute, max_batch=9, wait_ms=60_000, max_waiting=4)
        first, second = batcher.submit([1, 2]), batcher.submit([3])
        with pytest.raises(QueueFullError, match="3 rows wait already"):
            batcher.submit([4, 5])
        assert first.cancel()
        batcher.close()
        assert (second.result(SECONDS), seen) == ([3], [3])


class TestProcess:
    def test_an_occupied_port_is_named_before_anything_is_loaded(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigError, match=f"port: {port} is in use on 127.0.0.1; choose another"):
                serving.serve(tmp_path, port=port)
        with pytest.raises(ConfigError, match=r"host: .*192\.0\.2\.1"):
            serving.serve(tmp_path, host="192.0.2.1", port=0)
        with pytest.raises(RunFolderError, match="is not a run folder"):
            serving.serve(tmp_path, port=0)

    @pytest.mark.slow
    def test_sigterm_answers_what_is_in_flight_and_ends_with_0(self, out: Path, expected: Any, tmp_path: Path) -> None:
        running = begin("serve", out, "--port", "0", "--wait-ms", "1500", streams=tmp_path)
        try:
            line = running.line()
            assert line.startswith("Serving at http://127.0.0.1:"), line
            url = line.split()[2].rstrip(",")
            assert f"curl -s {url}/predict -d '" in line
            with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
                assert client.get("/health").status_code == 200
                with ThreadPoolExecutor(1) as pool:
                    body = {"client": "planted-0-0", "rows": rows_of("zib")}
                    waiting = pool.submit(client.post, "/predict", json=body)
                    time.sleep(0.5)  # it waits 1.5 s for company
                    assert not waiting.done()
                    running.process.terminate()
                    answer = waiting.result(SECONDS)
            assert_answers(answer.json(), "planted-0-0", ["zib"], expected)
            assert running.ended(SECONDS) == 0
        finally:
            running.process.kill()
        assert (running.out.read_text(), running.err.read_text()) == ("", f"{line}\n")
