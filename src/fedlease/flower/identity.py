"""Proves which client a node serves: the node signs its introduction, and the server knows the clients' keys."""

import base64
from collections.abc import Mapping
from pathlib import Path

from fedlease.core.types import ClientId
from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError
from fedlease.flower.bounds import broken, line
from fedlease.flower.keys import LONGEST, fingerprint, private_key, public_key, sign, text_of, verifies
from fedlease.flower.messages import Introduction

__all__ = ["identified", "introduced"]


def introduced(card: ClientCard, run: str, node: int, key: Path | None) -> Introduction:
    """A client's introduction, signed if its node has a key.

    Args:
        card: the client's card.
        run: identity of the run.
        node: Flower's id of the node, which is signed so that another node cannot reuse the introduction.
        key: file with the node's private key, or None.

    Raises:
        ConfigError: the file has no private key.
    """
    if key is None:
        return Introduction(card)
    own = private_key(key, "node-config: key")
    signature = base64.b64encode(sign(own, _statement(run, node, card.id))).decode()
    return Introduction(card, text_of(own.public_key()), signature)


def identified(found: Introduction, run: str, node: int, keys: Mapping[str, ClientId] | None) -> tuple[str, str]:
    """Checks the key and the signature in an introduction.

    Args:
        found: the node's introduction, with a card that was checked.
        run: identity of the run.
        node: Flower's id of the node.
        keys: fingerprint of a key -> client; None allows every client any key, or none.

    Returns:
        The key's fingerprint, empty for a node without a key; and the fault as a sentence, empty if there is none.
    """
    client = found.card.id
    if fault := broken(found, {"key": line(LONGEST), "signature": line(LONGEST)}):
        return "", f"client {client!r}: {fault}"
    if not found.key:
        return "", (keys is not None and f"client {client!r}: its node has no key (key in its --node-config)") or ""
    try:
        key = public_key(found.key)
        signed = verifies(key, _statement(run, node, client), base64.b64decode(found.signature, validate=True))
    except (ConfigError, ValueError):
        signed = False
    if not signed:
        return "", f"client {client!r}: its introduction is not signed by the key in it"
    own = fingerprint(key)
    if keys is not None and keys.get(own) != client:
        return "", f"client {client!r}: its node has the key {own}, which is not this client's (flower.client_keys)"
    return own, ""


def _statement(run: str, node: int, client: ClientId) -> bytes:
    return f"fedlease introduction\n{run}\n{node}\n{client}".encode()
