"""A gate in front of a federation's SuperLink: it forwards the calls that nodes need from clients with a known key.

Flower serves nodes, control and the processes of apps on one port, and authenticates only the calls of nodes. So the
SuperLink should listen only on the loopback address, and the network should reach only this gate.
"""

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.proto.fab_pb2 import GetFabResponse
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from google.protobuf.message import DecodeError

from fedlease.core.types import ClientId
from fedlease.errors import ConfigError
from fedlease.flower.bounds import shown
from fedlease.flower.keys import clients_of, fingerprint, verifies
from fedlease.flower.pace import LARGEST, MEGABYTES, REQUESTS, Pace
from fedlease.flower.signatures import Signatures

__all__ = ["FLEET", "Gate"]

FLEET = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
"""Calls of a SuperNode that has a key. Registering is not one of them, since keys are registered on the server."""

APPS, REPLIES = "/v1/fleet/get-fab", "/v1/fleet/push-messages"
MIB = 2**20
MOST_BYTES = LARGEST * MIB

REFUSALS = 60
"""Most refusals logged in a minute, so that strangers cannot fill the disk."""

PATIENCE = 60.0
"""Seconds that the SuperLink has to answer; a SuperNode gives up after 30."""

OWN_HEADERS = (b"host", b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"upgrade", b"te")
"""Headers that concern only one connection, and are not forwarded."""

IDENTITY = tuple(
    name.lower().encode() for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)
)
"""Headers that identify the node: public key, signature and time."""

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

log = logging.getLogger("fedlease.gate")


@dataclass
class Gate:
    """An ASGI application that forwards requests of nodes with a known key, and answers all others with 404.

    Attributes:
        superlink: sends requests to the SuperLink.
        clients: folder with a public key for every client, ``ID.pub``; read again when files are added or removed.
        signatures: signatures of apps, which are attached to apps on their way to nodes; None attaches none.
        requests: most requests of a client in a minute; more are answered with 503, and a SuperNode then asks again.
        megabytes: most megabytes that a client may send in a minute; likewise.
    """

    superlink: httpx.AsyncClient
    clients: Path
    signatures: Signatures | None = None
    requests: int = REQUESTS
    megabytes: int = MEGABYTES
    _paces: dict[ClientId, tuple[Pace, Pace]] = field(default_factory=dict)
    _logged: Pace = field(default_factory=lambda: Pace(REFUSALS))
    _not_logged: int = 0
    _known: dict[str, ClientId] = field(default_factory=dict)
    _read_at: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a connection or request; the ASGI server calls this."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        # The server closes web sockets, which nothing accepts.

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], dict(scope["headers"])
        if scope["method"] != "POST" or path not in FLEET or scope["query_string"]:
            return await self._refuse(scope, send, "asked for what nodes do not need")
        # Of two headers with one name, the SuperLink might read the other one.
        once = all(sum(name == given for given, _ in scope["headers"]) == 1 for name in IDENTITY)
        client = self._client(headers) if once else None
        if client is None:
            return await self._refuse(scope, send, "has no key of a client, or its clock is wrong")
        asked, sent = self._paces.setdefault(client, (Pace(self.requests), Pace(self.megabytes * MIB)))
        if not asked.takes():
            return await self._refuse(scope, send, f"is client {client!r} and asks too often (--requests)", 503)
        body = await _body(headers, receive)
        if body is None:
            return await self._refuse(scope, send, f"is client {client!r} and sent more than {MOST_BYTES} bytes")
        if not sent.takes(len(body)):
            return await self._refuse(scope, send, f"is client {client!r} and sends too much (--megabytes)", 503)
        if path == REPLIES and not _own(body):
            return await self._refuse(scope, send, f"is client {client!r} and sent a reply in another node's name")
        passed = [(name, value) for name, value in scope["headers"] if name.lower() not in OWN_HEADERS]
        try:
            answer = await self.superlink.post(path, content=body, headers=passed)
        except httpx.TransportError as error:
            log.warning("the SuperLink does not answer: %s", type(error).__name__)
            return await _answer(send, 503, {}, b"")
        content = answer.content
        if path == APPS and answer.status_code == httpx.codes.OK and self.signatures is not None:
            content = self._signed(content)
        kept = {name: value for name, value in answer.headers.items() if name in ("content-type", "cache-control")}
        await _answer(send, answer.status_code, kept, content)

    async def _refuse(self, scope: Scope, send: Send, why: str, status: int = 404) -> None:
        if self._logged.takes():
            source = (scope.get("client") or ("unknown",))[0]
            path, before = shown(scope["path"])[:100], f" ({self._not_logged} others since)" if self._not_logged else ""
            log.warning("%s %s: %s %s%s", source, why, shown(scope["method"]), path, before)
            self._not_logged = 0
        else:
            self._not_logged += 1
        # The same answer for all reasons reveals nothing. It ends a SuperNode with a message; 401 would end it without
        # one, and 403 would mean that the run is over.
        await _answer(send, status, {}, b"")

    def _client(self, headers: Mapping[bytes, bytes]) -> ClientId | None:
        """The client that signed the time in a request's headers; None for an unknown key or a time that is off."""
        try:
            pem, signature = (base64.b64decode(headers[name], validate=True) for name in IDENTITY[:2])
            stamp = headers[IDENTITY[2]]
            age = (datetime.now(UTC) - datetime.fromisoformat(stamp.decode("ascii"))).total_seconds()
            key = load_pem_public_key(pem)
        except (KeyError, ValueError, TypeError, binascii.Error, UnsupportedAlgorithm):
            return None
        if not isinstance(key, EllipticCurvePublicKey) or not (
            -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
        ):
            return None
        client = self._clients().get(fingerprint(key))
        return client if client is not None and verifies(key, stamp, signature) else None

    def _clients(self) -> dict[str, ClientId]:
        """Fingerprint of a key -> its client; empty, so that nobody is admitted, if the folder cannot be read."""
        try:
            changed = self.clients.stat().st_mtime_ns
            if changed != self._read_at:
                self._known, self._read_at = clients_of(self.clients, "--clients"), changed
        except (OSError, ConfigError) as error:
            log.error("%s", shown(str(error)))
            self._known, self._read_at = {}, 0
        return self._known

    def _signed(self, content: bytes) -> bytes:
        """An answer that contains an app, with that app's signatures attached."""
        assert self.signatures is not None
        answer = GetFabResponse.FromString(content)
        for name, value in self.signatures.of(answer.fab.content).items():
            answer.fab.verifications[name] = value
        return bytes(answer.SerializeToString())


def _own(body: bytes) -> bool:
    """Whether every reply names the node that pushes it, which the SuperLink does not check."""
    try:
        pushed = PushMessagesRequest.FromString(body)
    except DecodeError:
        return False
    return all(message.metadata.src_node_id == pushed.node.node_id for message in pushed.messages_list)


async def _body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
    """The body of a request; None if it is too long, which the headers may show before it is read."""
    if int(headers.get(b"content-length", b"0")) > MOST_BYTES:
        return None
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await receive()
        part: bytes = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size > MOST_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


async def _answer(send: Send, status: int, headers: Mapping[str, str], content: bytes) -> None:
    lines = [*headers.items(), ("content-length", str(len(content)))]
    encoded = [(name.encode(), value.encode()) for name, value in lines]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
