"""Access tokens: one per client, and an administrator's for all clients."""

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
"""Paths that anyone may request, since their responses have no names or rows of clients."""
MOST_BYTES = 1_000_000
SHORTEST, LONGEST = 16, 1000
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    Attributes:
        name: id of the client whose model it may use, or :data:`ADMIN` for all models.
    """

    name: ClientId = ADMIN

    def may(self, client: ClientId) -> bool:
        """Whether it may use this client's model."""
        return self.name in (ADMIN, client)


class Tokens:
    """The SHA-256 digests of all tokens with their callers; the tokens themselves are not stored."""

    def __init__(self, callers: Mapping[bytes, Caller]) -> None:
        self._callers = dict(callers)

    @classmethod
    def read(cls, path: Path, clients: Collection[ClientId]) -> "Tokens":
        """Reads a YAML or JSON mapping of client ids, or ``"*"``, to tokens.

        A token is 16 to 1000 visible characters, or ``sha256:`` and the hexadecimal digest of a token, so that the file
        need not have the token itself.

        Raises:
            ConfigError: the file cannot be read or has another form, or it has an unknown client or a token twice.
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
        """The caller with a token, or None; the time of the search does not depend on the token."""
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
    """The sender of a request; without a token file everyone may use all models."""
    caller: Caller = request.scope.get("fedlease.caller", Caller())
    return caller


def refusal_body(path: str, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body of an error: under ``/v1`` in the form that OpenAI's clients read, otherwise one sentence."""
    if not path.startswith("/v1/"):
        return {"error": message}
    kind = "invalid_request_error" if code is None or code.startswith(("invalid", "model")) else code
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class OnlyCallers:
    """Refuses requests without a known token; ``/metrics`` requires the administrator's."""

    def __init__(self, app: Any, tokens: Tokens) -> None:
        self.app = app
        self.tokens = tokens

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles a request; the web framework calls this."""
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
