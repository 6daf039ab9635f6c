"""Access tokens: one per client, and an administrator's for all of them."""

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedlease.config.layers import parse_yaml
from fedlease.core.types import ClientId
from fedlease.core.wording import printable
from fedlease.errors import ConfigError

__all__ = ["ADMIN", "OPEN_PATHS", "Caller", "OnlyCallers", "Tokens", "caller_of", "refusal_body"]

ADMIN = "*"
OPEN_PATHS = ("/health", "/docs", "/openapi.json")
"""Paths without a client's name or row in them; they are answered to everyone."""
MOST_BYTES = 1_000_000
SHORTEST, LONGEST = 16, 1000
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Caller:
    """Attributes: ``name``, a client's id, or :data:`ADMIN` for one who may ask every client's model."""

    name: ClientId = ADMIN

    def may(self, client: ClientId) -> bool:
        """Whether it may ask this client's model."""
        return self.name in (ADMIN, client)


class Tokens:
    """SHA-256 digest of every token -> whose it is; the tokens themselves are not stored."""

    def __init__(self, callers: Mapping[bytes, Caller]) -> None:
        self._callers = dict(callers)

    @classmethod
    def read(cls, path: Path, clients: Collection[ClientId]) -> "Tokens":
        """Reads a YAML or JSON mapping of client ids, or ``"*"``, to tokens.

        A token is 16 to 1000 visible characters, or ``sha256:`` and the hexadecimal digest of one, so that the file
        itself opens nothing.

        Raises:
            ConfigError: unreadable, another form, a client that the run does not have, or a token given twice.
        """
        try:
            with path.open("rb") as file:
                blob = file.read(MOST_BYTES + 1)
            given = parse_yaml(blob.decode("utf-8")) if len(blob) <= MOST_BYTES else None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"token-file: {path} cannot be read: {error}") from error
        except yaml.YAMLError as error:  # its message may quote a token
            raise ConfigError(f"token-file: {path} is no YAML or JSON mapping of clients to tokens") from error
        if not isinstance(given, dict) or not given:
            raise ConfigError(
                f"token-file: {path} must be a mapping of clients to tokens, of at most {MOST_BYTES} bytes"
            )
        faults, callers = [], dict[bytes, Caller]()
        for key, token in given.items():
            name = str(key)
            shown = printable(name, longest=100)
            if name != ADMIN and name not in clients:
                faults.append(f"token-file: the run has no client {shown!r}")
            digest = _digest(token)
            if digest is None:
                rule = f"{SHORTEST} to {LONGEST} visible ASCII characters, or sha256: and 64 hexadecimal digits"
                faults.append(f"token-file: the token of {shown!r} must be {rule}")
            elif digest in callers:
                faults.append(f"token-file: {shown!r} has the same token as {callers[digest].name!r}")
            else:
                callers[digest] = Caller(name)
        if faults:
            raise ConfigError(faults)
        return cls(callers)

    def caller(self, token: bytes) -> Caller | None:
        """The owner of a token; the time of the search depends on no token."""
        given, found = hashlib.sha256(token).digest(), None
        for digest, caller in self._callers.items():
            if hmac.compare_digest(digest, given):
                found = caller
        return found


def _digest(token: object) -> bytes | None:
    if not isinstance(token, str):
        return None
    if hashed := DIGEST.fullmatch(token):
        return bytes.fromhex(hashed[1])
    plain = SHORTEST <= len(token) <= LONGEST and token.isascii() and token.isprintable() and " " not in token
    return hashlib.sha256(token.encode()).digest() if plain else None


def caller_of(request: Any) -> Caller:
    """The sender of a request; without a token file everyone may ask everything."""
    caller: Caller = request.scope.get("fedlease.caller", Caller())
    return caller


def refusal_body(path: str, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body of an error: below ``/v1`` in the form that OpenAI's clients read, else one sentence."""
    if not path.startswith("/v1/"):
        return {"error": message}
    kind = "invalid_request_error" if code is None or code.startswith(("invalid", "model")) else code
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class OnlyCallers:
    """Refuses requests without a known token; those to ``/metrics`` need the administrator's."""

    def __init__(self, app: Any, tokens: Tokens) -> None:
        self.app = app
        self.tokens = tokens

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Called by the web framework."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            header = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, token = header.partition(b" ")
            caller = self.tokens.caller(token.strip()) if scheme.lower() == b"bearer" else None
            status, message = 401, "a token is needed: Authorization: Bearer TOKEN"
            if caller is not None and scope["path"] == "/metrics" and caller.name != ADMIN:
                status, message, caller = 403, "metrics are for the administrator's token", None
            if caller is None:
                from fastapi.responses import JSONResponse

                code = "invalid_api_key" if status == 401 else "permission_denied"
                headers = {"Connection": "close", **({"WWW-Authenticate": "Bearer"} if status == 401 else {})}
                await JSONResponse(refusal_body(scope["path"], message, code), status, headers)(scope, receive, send)
                return
            scope["fedlease.caller"] = caller
        await self.app(scope, receive, send)
