"""Signatures of apps, so that a node's operator need not trust the server but only whoever has signed the code.

Flower's SuperNode checks them (``--trusted-entities``), but its SuperLink gets them only from Flower's hub. Here they
are in a file on the server, and :class:`~fedlease.flower.gate.Gate` attaches them to an app on its way to a node. The
signer's key need not be on the server.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign

from fedlease.errors import ConfigError
from fedlease.files import write_atomically
from fedlease.flower.keys import fingerprint, private_key, sign, text_of

__all__ = ["Signatures", "sign_app"]

MOST_BYTES = 2**20
"""Largest file of signatures, in bytes."""

LICENSED = {"valid_license": "Valid"}
"""An entry that a SuperNode requires besides signatures; Flower's hub sets it for apps that it has verified."""


@dataclass(frozen=True)
class Signatures:
    """The signatures in a file.

    Attributes:
        path: JSON file: SHA-256 of an app -> name of a key -> ``signature`` and ``signed_at``.
    """

    path: Path

    def all(self) -> dict[str, Any]:
        """The content of the file; empty if it does not exist.

        Raises:
            ConfigError: it is no file of signatures.
        """
        try:
            with self.path.open("rb") as file:
                found = json.loads(file.read(MOST_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"signatures: {str(self.path)!r} is no file of signatures: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(keys, dict) for keys in found.values()):
            raise ConfigError(f"signatures: {str(self.path)!r} is no file of signatures")
        return found

    def of(self, app: bytes) -> dict[str, str]:
        """The verifications of an app for a SuperNode; these have no signature if nobody signed the app.

        Args:
            app: the app's bytes, as ``flwr build`` packs it.
        """
        found = self.all().get(hashlib.sha256(app).hexdigest(), {})
        return {**{name: json.dumps(value) for name, value in found.items()}, **LICENSED}


def sign_app(folder: Path, key: Path, out: Path, now: int) -> tuple[str, str, str]:
    """Signs an app and adds the signature to a file, beside those of other keys and apps.

    Args:
        folder: the app's folder.
        key: file with the signer's private key, Ed25519.
        out: file of signatures.
        now: seconds since 1970.

    Returns:
        SHA-256 of the packed app, and the name and the text of the public key for a node's file of trusted signers.

    Raises:
        ConfigError: ``folder`` is no app, ``key`` no such key, or ``out`` no file of signatures.
    """
    if not (folder / "pyproject.toml").is_file():
        raise ConfigError(f"DIR: {str(folder)!r} is no Flower app: it has no pyproject.toml")
    own = private_key(key, "--key")
    if not isinstance(own, Ed25519PrivateKey):
        raise ConfigError(f"--key: {str(key)!r} must be Ed25519, which Flower asks for: ssh-keygen -t ed25519")
    try:
        packed = build_fab_from_disk(folder)
    except Exception as error:  # Flower's packing may raise anything for the caller's files
        raise ConfigError(f"DIR: {str(folder)!r} cannot be packed: {error}") from error
    found, hash_ = hashlib.sha256(packed), hashlib.sha256(packed).hexdigest()
    name = fingerprint(own.public_key())
    signature = sign(own, create_message_to_sign(found.digest(), now))
    entry = {"signature": base64.urlsafe_b64encode(signature).decode(), "signed_at": now}
    signatures = Signatures(out).all()
    signatures[hash_] = {**signatures.get(hash_, {}), name: entry}
    write_atomically(out, json.dumps(signatures, indent=1, sort_keys=True).encode())
    return hash_, name, text_of(own.public_key())
