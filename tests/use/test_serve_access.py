"""Tokens, counters, the access log and the page of the service: who may ask what, and nothing of a row anywhere."""

import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from use.serving_client import SECONDS, rows_of, served

from fedlease.errors import ConfigError
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.access import ADMIN, Tokens

pytest.importorskip("fastapi", reason="fedlease[serve] is not installed")

ONE, TWO = "planted-0-0", "planted-1-0"
ADMINS, OWN = "of-the-administrator", "of-the-client-one"
SECRET = "a secret of a patient"


@pytest.fixture(scope="module")
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def client(out: Path, log: io.StringIO, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("tokens") / "tokens.yaml"
    # The client's is a digest: the file holds nothing that opens.
    path.write_text(f"'*': {ADMINS}\n{ONE}: sha256:{hashlib.sha256(OWN.encode()).hexdigest()}\n")
    run = OpenRun(out)
    with served(run, tokens=Tokens.read(path, run.clients), access_log=log) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def wait_for(true: Callable[[], bool]) -> None:
    """A request is noted once its response is complete, which its caller may know a moment earlier."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def asked(name: str, text: str = "zib") -> dict[str, Any]:
    return {"client": name, "rows": rows_of(text)}


@pytest.mark.parametrize(
    "header",
    [{}, bearer("of-nobody-at-all"), {"Authorization": f"Basic {OWN}"}, bearer(OWN + "x"), {"Authorization": "Bearer"}],
)
@pytest.mark.parametrize("path", ["/clients", "/metrics", "/predict", "/nothing"])
def test_without_a_known_token_nothing_of_the_run_is_told(client: Any, path: str, header: dict[str, str]) -> None:
    answer = client.request("POST" if path == "/predict" else "GET", path, headers=header)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.json() == {"error": "a token is needed: Authorization: Bearer TOKEN"}


def test_health_and_description_are_open_and_name_no_client(client: Any) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    for path in ("/docs", "/openapi.json"):
        answer = client.get(path)
        assert answer.status_code == 200 and ONE not in answer.text


def test_a_client_asks_for_itself_and_the_administrator_for_all(client: Any) -> None:
    own, admin = bearer(OWN), bearer(ADMINS)
    assert [one["id"] for one in client.get("/clients", headers=own).json()["clients"]] == [ONE]
    assert len(client.get("/clients", headers=admin).json()["clients"]) == 8
    assert client.post("/predict", json=asked(ONE), headers=own).status_code == 200
    for name in (TWO, "nobody"):  # whether there is such a client is not told
        answer = client.post("/predict", json={"requests": [asked(ONE), asked(name)]}, headers=own)
        assert answer.status_code == 403
        assert answer.json() == {"error": f"the token is for client {ONE!r}, received {name!r}"}
    assert client.post("/predict", json=asked(TWO), headers=admin).status_code == 200
    assert client.post("/predict", json=asked("nobody"), headers=admin).status_code == 404


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"nobody": OWN}, "token-file: the run has no client 'nobody'"),
        ({ONE: "short"}, f"token-file: the token of {ONE!r} must be 16 to 1000 visible ASCII characters"),
        ({ONE: "with a space in it"}, "16 to 1000 visible ASCII characters"),
        ({ONE: 1234567890123456}, "16 to 1000 visible ASCII characters"),
        ({ONE: OWN, ADMIN: OWN}, f"token-file: '*' has the same token as {ONE!r}"),
        ([], "must be a mapping of clients to tokens"),
    ],
)
def test_a_token_file_is_refused_with_the_rule_and_without_the_token(
    content: Any, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "t").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=re.escape(sentence)) as caught:
        Tokens.read(tmp_path / "t", [ONE, TWO])
    assert OWN not in str(caught.value) and "short" not in str(caught.value)


def test_a_token_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"token-file: .* cannot be read"):
        Tokens.read(tmp_path / "none", [ONE])
    (tmp_path / "t").write_text(f"a: [{OWN}\n")
    with pytest.raises(ConfigError, match="is no YAML or JSON mapping") as caught:
        Tokens.read(tmp_path / "t", [ONE])
    assert OWN not in str(caught.value)


def test_the_access_log_has_a_line_per_request_and_nothing_of_rows_or_tokens(client: Any, log: io.StringIO) -> None:
    before = log.getvalue()
    client.post(f"/predict?q={SECRET}", json={"requests": [asked(ONE, SECRET)] * 2}, headers=bearer(OWN))
    client.get("/clients")
    wait_for(lambda: log.getvalue().removeprefix(before).count("\n") == 2)
    added = log.getvalue().removeprefix(before)
    predicted, refused = map(json.loads, added.splitlines())
    expected = {"caller": ONE, "method": "POST", "path": "/predict", "status": 200, "clients": [ONE], "rows": 2}
    assert expected.items() <= predicted.items() and predicted["from"] == "127.0.0.1" and predicted["ms"] > 0
    assert (refused["status"], refused["caller"], refused["rows"]) == (401, None, 0)
    assert SECRET not in added and "secret" not in added and OWN not in added


def test_metrics_count_requests_and_rows_for_the_administrator(client: Any) -> None:
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    assert client.get("/metrics", headers=bearer(OWN)).status_code == 403

    def counted(name: str) -> float:
        page = client.get("/metrics", headers=bearer(ADMINS)).text
        return next((float(line.split()[-1]) for line in page.splitlines() if line.startswith(name)), 0.0)

    rows = f'fedlease_rows_total{{client="{TWO}"}}'
    requests = 'fedlease_requests_total{method="POST",path="/predict",status="200"}'
    before = counted(rows), counted(requests)
    client.post("/predict", json={"client": TWO, "rows": rows_of("zib", SECRET)}, headers=bearer(ADMINS))
    wait_for(lambda: (counted(rows), counted(requests)) == (before[0] + 2, before[1] + 1))
    client.get(f"/{SECRET}", headers=bearer(ADMINS))  # paths that callers make up have one name together
    page = client.get("/metrics", headers=bearer(ADMINS)).text
    assert 'path="other"' in page and "secret" not in page


def test_the_page_describes_every_path_and_loads_nothing(client: Any) -> None:
    answer = client.get("/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in answer.text
    # Namespaces and schema names aside, nothing on the page names another host, and nothing on it runs.
    assert "http:" not in answer.text and "https:" not in answer.text
    assert "<script" not in answer.text and "Bearer TOKEN" in answer.text
