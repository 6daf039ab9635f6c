"""The gate before a SuperLink: known keys reach what nodes need, strangers reach nothing, and apps carry signatures."""

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fab_pb2 import Fab, GetFabResponse
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.fab import Fab as PlainFab
from flwr.superlink.routers.fleet.router import router
from flwr.supernode.start_client_internal import _verify_fab
from typer.testing import CliRunner

from fedlease.cli.main import app as command
from fedlease.errors import ConfigError, MissingPackageError
from fedlease.flower import gate as module
from fedlease.flower.gate import FLEET, MIB, MOST_BYTES, Gate
from fedlease.flower.gate_server import serve_gate
from fedlease.flower.keys import clients_of, fingerprint, private_key, public_key, sign, text_of
from fedlease.flower.new_app import write_app
from fedlease.flower.pace import Pace
from fedlease.flower.signatures import Signatures

PULL = "/v1/fleet/pull-messages"
Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP384R1())


@dataclass
class Door:
    """A gate with a SuperLink behind it that notes what reaches it."""

    folder: Path
    answer: bytes = b"answer"
    signatures: Signatures | None = None
    reached: list[httpx.Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        def superlink(request: httpx.Request) -> httpx.Response:
            self.reached.append(request)
            return httpx.Response(200, content=self.answer, headers={"content-type": "x/y", "server": "secret"})

        upstream = httpx.AsyncClient(transport=httpx.MockTransport(superlink), base_url="https://superlink")
        self.gate: Any = Gate(upstream, self.folder, self.signatures)

    def __call__(self, method: str = "POST", path: str = PULL, **request: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            outside = httpx.ASGITransport(app=self.gate)
            async with httpx.AsyncClient(transport=outside, base_url="https://gate") as client:
                return await client.request(method, path, **request)

        return asyncio.run(ask())


@pytest.fixture
def mine() -> Key:
    return new_key()


@pytest.fixture
def door(tmp_path: Path, mine: Key) -> Door:
    (tmp_path / "clinic-a.pub").write_text(text_of(mine.public_key()) + " a comment\n")
    return Door(tmp_path)


def headers(key: Key, signer: Key | None = None, late: float = 0.0) -> dict[str, str]:
    """What Flower's SuperNode sends; with another signer, or late, what a thief of the public key sends."""
    stamp = (datetime.now(UTC) - timedelta(seconds=late)).isoformat()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = sign(signer or key, stamp.encode())
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(pem).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
        TIMESTAMP_HEADER: stamp,
    }


def test_a_client_reaches_what_nodes_need(door: Door, mine: Key) -> None:
    for path in sorted(FLEET):
        found = door(path=path, content=b"", headers=headers(mine))
        assert (found.status_code, found.content) == (200, b"answer") and "server" not in found.headers
        assert found.headers["content-type"] == "x/y"
    assert [(r.url.path, r.content) for r in door.reached] == [(path, b"") for path in sorted(FLEET)]
    assert TIMESTAMP_HEADER in door.reached[0].headers, "Flower checks the signature again"


def test_no_client_replies_in_the_name_of_another(door: Door, mine: Key) -> None:
    for source, status in ((7, 200), (8, 404)):
        reply = Message(metadata=Metadata(src_node_id=source))
        pushed = PushMessagesRequest(node=Node(node_id=7), messages_list=[reply])
        found = door(path="/v1/fleet/push-messages", headers=headers(mine), content=pushed.SerializeToString())
        assert found.status_code == status
    assert door(path="/v1/fleet/push-messages", headers=headers(mine), content=b"\xff").status_code == 404
    assert len(door.reached) == 1


def test_what_nodes_need_is_all_that_flower_offers_them_but_registering() -> None:
    offered = {str(getattr(route, "path", "")) for route in router.routes}
    assert offered - FLEET == {"/v1/fleet/register-node", "/v1/fleet/unregister-node"} and offered >= FLEET


@pytest.mark.parametrize("path", [
    "/v1/control/start-run", "/v1/control/list-runs", "/v1/control/register-node", "/v1/runtime/acquire-task",
    "/v1/runtime/pull-messages", "/v1/fleet/register-node", "/v1/fleet/../control/start-run", "//v1/control/list-runs",
    "/v1/fleet/pull-messages/", "/v1/fleet/pull-messages?x=1", "/v1/fleet/%2e%2e/control/list-runs", "/docs", "/health",
    "/openapi.json", "/",
])  # fmt: skip
def test_nobody_reaches_the_rest_not_even_a_client(path: str, door: Door, mine: Key) -> None:
    assert door(path=path, headers=headers(mine)).status_code == 404
    assert door("GET", PULL, headers=headers(mine)).status_code == 404 and not door.reached


def test_a_stranger_reaches_nothing_and_learns_nothing(door: Door, mine: Key) -> None:
    stranger = new_key()
    broken = {**headers(mine), FLEET_HTTP_SIGNATURE_HEADER: "?", TIMESTAMP_HEADER: "yesterday"}
    for sent in ({}, headers(stranger), headers(mine, signer=stranger), headers(mine, late=400), broken):
        for path in sorted(FLEET):
            found = door(path=path, headers=sent)
            assert (found.status_code, found.content) == (404, b"") and not door.reached


def test_nobody_says_twice_who_asks(door: Door, mine: Key) -> None:
    right, other = headers(mine), headers(new_key())
    for name in right:
        twice = [*right.items(), (name, other[name])]
        assert door(headers=twice).status_code == door(headers=twice[::-1]).status_code == 404
    assert not door.reached


def test_who_is_taken_out_of_the_folder_is_let_in_no_longer(door: Door, mine: Key) -> None:
    assert door(headers=headers(mine)).status_code == 200
    (door.folder / "clinic-a.pub").unlink()
    assert door(headers=headers(mine)).status_code == 404
    (door.folder / "clinic-a.pub").write_text(text_of(mine.public_key()))
    (door.folder / "clinic-b.pub").write_text("no key")
    assert door(headers=headers(mine)).status_code == 404, "a folder that is wrong lets nobody in"


def test_a_request_has_a_longest(door: Door, mine: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    assert door(headers=headers(mine), content=b"x" * 10).status_code == 200
    assert door(headers=headers(mine), content=b"x" * 11).status_code == 404

    async def pieces() -> Any:
        for _ in range(3):
            yield b"x" * 5

    assert door(headers=headers(mine), content=pieces()).status_code == 404 and len(door.reached) == 1


def test_a_client_asks_and_sends_so_much_in_a_minute_and_others_what_they_may(
    tmp_path: Path, mine: Key, caplog: pytest.LogCaptureFixture
) -> None:
    """Of three requests and one MiB: the fourth, and more than half of the MiB twice, are put off."""
    other = new_key()
    for client, key in (("mine", mine), ("other", other)):
        (tmp_path / f"{client}.pub").write_text(text_of(key.public_key()))
    door, now = Door(tmp_path), [0.0]
    door.gate.requests, door.gate.megabytes = 3, 1
    for client in ("mine", "other"):
        door.gate._paces[client] = (Pace(3, lambda: now[0]), Pace(2**20, lambda: now[0]))
    most = bytes(600_000)
    assert [door(headers=headers(mine), content=most).status_code for _ in range(2)] == [200, 503]
    assert "sends too much (--megabytes)" in caplog.text
    assert [door(headers=headers(mine)).status_code for _ in range(3)] == [200, 503, 503]
    assert "is client 'mine' and asks too often (--requests)" in caplog.text
    assert door(headers=headers(other)).status_code == 200
    now[0] = 20  # a third of a minute: one more request, and a third of the MiB
    assert [door(headers=headers(mine)).status_code for _ in range(2)] == [200, 503]
    now[0] = 3600
    assert [door(headers=headers(mine)).status_code for _ in range(4)] == [200, 200, 200, 503]


def test_no_stranger_fills_the_log(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    door.gate._logged = Pace(3, lambda: now[0])
    assert {door().status_code for _ in range(10)} == {404}
    assert len(caplog.records) == 3
    now[0] = 60
    door()
    assert "(7 others since)" in caplog.text and len(caplog.records) == 4


def test_a_superlink_that_does_not_answer_is_not_there(tmp_path: Path, mine: Key) -> None:
    (tmp_path / "clinic-a.pub").write_text(text_of(mine.public_key()))
    door = Door(tmp_path)

    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody")

    door.gate.superlink = httpx.AsyncClient(transport=httpx.MockTransport(gone), base_url="https://superlink")
    assert door(headers=headers(mine)).status_code == 503


def written(path: Path, key: ed25519.Ed25519PrivateKey | Key) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's use of pathspec
def test_a_node_runs_the_app_that_was_signed_and_no_other(tmp_path: Path, mine: Key) -> None:
    """By Flower's own check, of what the gate hands on."""
    from flwr.cli.build import build_fab_from_disk

    write_app(tmp_path / "app")
    signer, folder, out = ed25519.Ed25519PrivateKey.generate(), tmp_path / "clients", tmp_path / "signatures.json"
    folder.mkdir()
    (folder / "clinic-a.pub").write_text(text_of(mine.public_key()))
    asked = ["sign", str(tmp_path / "app"), "--key", str(written(tmp_path / "signer", signer)), "--out", str(out)]
    said = CliRunner().invoke(command, asked)
    assert said.exit_code == 0, said.output
    name = fingerprint(signer.public_key())
    trusted = json.loads("{" + said.output.splitlines()[-1] + "}")
    assert trusted == {name: text_of(signer.public_key())}

    def verified(app: bytes, trusted: dict[str, str]) -> bool:
        answer = GetFabResponse(fab=Fab(hash_str="x", content=app)).SerializeToString()
        door = Door(folder, answer, Signatures(out))
        fab = GetFabResponse.FromString(door(path="/v1/fleet/get-fab", headers=headers(mine)).content).fab
        found = dict(fab.verifications)
        assert fab.content == app
        # A SuperNode asks for both.
        return bool(found.get("valid_license")) and _verify_fab(PlainFab("x", fab.content, found), trusted)

    packed = build_fab_from_disk(tmp_path / "app")
    assert verified(packed, trusted)
    assert not verified(packed, {name: text_of(ed25519.Ed25519PrivateKey.generate().public_key())})
    (tmp_path / "app/app_app").mkdir(exist_ok=True)
    (tmp_path / "app/federation.yaml").write_text("preset: smoke\n")
    assert not verified(build_fab_from_disk(tmp_path / "app"), trusted), "every change asks for a new signature"
    assert CliRunner().invoke(command, asked).exit_code == 0 and len(Signatures(out).all()) == 2
    assert verified(packed, trusted) and verified(build_fab_from_disk(tmp_path / "app"), trusted)


def test_a_key_has_the_fingerprint_that_ssh_keygen_shows(tmp_path: Path) -> None:
    known = (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3haYsGgnHeYguEGAkqEr4Gzs2mjjcDLVkYS+Q5OzAm somebody",
        "SHA256:kvuV5bOhcaMUhBRjqXMaSb2Hdtsqi+6asG5PyVkjdgA",
    )
    assert fingerprint(public_key(known[0])) == known[1]


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ({"a.pub": "no key"}, r"--clients: '.*a.pub' holds no key that OpenSSH writes"),
        ({"a.pub": "KEY", "b.pub": "KEY"}, "--clients: clients 'a' and 'b' have one key; each needs its own"),
        ({" a.pub": "KEY"}, "the client id must not"),
    ],
)
def test_a_folder_of_keys_says_what_is_wrong_with_it(files: dict[str, str], rule: str, tmp_path: Path) -> None:
    own = text_of(new_key().public_key())
    for name, content in files.items():
        (tmp_path / name).write_text(content.replace("KEY", own))
    with pytest.raises(ConfigError, match=rule):
        clients_of(tmp_path, "--clients")
    with pytest.raises(ConfigError, match=r"--clients: .* is no folder"):
        clients_of(tmp_path / "none", "--clients")


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda folder: folder / "none", r"--key: '.*none' cannot be read: No such file"),
        (lambda folder: written(folder / "ec", new_key()), r"--key: '.*ec' must be Ed25519"),
    ],
)
def test_who_signs_has_a_key_of_flowers_kind(make: Callable[[Path], Path], rule: str, tmp_path: Path) -> None:
    write_app(tmp_path / "app")
    asked = ["sign", str(tmp_path / "app"), "--key", str(make(tmp_path)), "--out", str(tmp_path / "out.json")]
    with pytest.raises(ConfigError, match=rule):
        CliRunner().invoke(command, asked, catch_exceptions=False)
    assert not (tmp_path / "out.json").exists()


def test_the_gate_says_what_it_cannot_use_before_it_listens(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_text(text_of(new_key().public_key()))
    (tmp_path / "bad.pem").write_text("no certificate")
    pem = tmp_path / "bad.pem"
    for superlink, clients, signatures, rule in (
        ("127.0.0.1", tmp_path, None, "--superlink: must be a host and a port, .* received '127.0.0.1'"),
        ("127.0.0.1:1", tmp_path / "none", None, "--clients: "),
        ("127.0.0.1:1", tmp_path, None, "--authority: .* cannot be used"),
        ("127.0.0.1:1", tmp_path, pem, "signatures: .* is no file of signatures"),
    ):
        with pytest.raises(ConfigError, match=rule):
            serve_gate(superlink, "127.0.0.1", 0, clients, pem, pem, pem, signatures)


def test_a_client_may_send_at_least_one_of_the_largest_requests_in_a_minute() -> None:
    files = ("--clients", "c", "--certificate", "p", "--key", "k", "--authority", "a")
    found = CliRunner().invoke(command, ["gate", *files, "--megabytes", str(MOST_BYTES // MIB - 1)])
    assert found.exit_code == 2 and "63 is not in the range x>=64" in " ".join(found.output.split())


def test_without_flower_the_commands_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("fedlease.flower.signatures", "fedlease.flower.gate_server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "flwr.cli.build", None)
    with pytest.raises(MissingPackageError, match=r"fedlease sign needs the package .*fedlease\[flower\]"):
        CliRunner().invoke(command, ["sign", "x", "--key", "k", "--out", "o"], catch_exceptions=False)
    assert private_key(written(tmp_path / "key", new_key()), "key")
