"""Signatures of apps: a node's operator trusts code that somebody has read and signed, not the server.

Flower's SuperNode checks them (``--trusted-entities``), and would take them from its hub alone. Here they are in a file
on the server, from which :class:`~fedlease.flower.gate.Gate` attaches them to an app on its way to a node; the signer's
key need not be on the server.
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
"""Largest file of signatures."""

LICENSED = {"valid_license": "Valid"}
"""What a SuperNode asks for beside a signature; from Flower's hub it says that apps are verified at all."""


@dataclass(frozen=True)
class Signatures:
    """The signatures in a file.

    Attributes:
        path: JSON: SHA-256 of an app -> name of a key -> ``signature`` and ``signed_at``.
    """

    path: Path

    def all(self) -> dict[str, Any]:
        """What the file holds; nothing where there is none.

        Raises:
            ConfigError: it is no such file.
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
        """The verifications that a SuperNode reads for an app; without any key's if nobody signed it.

        Args:
            app: as ``flwr build`` packs it.
        """
        found = self.all().get(hashlib.sha256(app).hexdigest(), {})
        return {**{name: json.dumps(value) for name, value in found.items()}, **LICENSED}


def sign_app(folder: Path, key: Path, out: Path, now: int) -> tuple[str, str, str]:
    """Adds the signature of an app to a file; those of other keys and apps stay.

    Args:
        folder: of the app.
        key: Ed25519, of who has read it.
        out: file with signatures.
        now: seconds since 1970.

    Returns:
        SHA-256 of the app as it is packed, the name of the key, and the key, as they stand in a node's file of whom it
        trusts.

    Raises:
        ConfigError: no app, no such key, or no file of signatures.
    """
    if not (folder / "pyproject.toml").is_file():
        raise ConfigError(f"DIR: {str(folder)!r} is no Flower app: it has no pyproject.toml")
    own = private_key(key, "--key")
    if not isinstance(own, Ed25519PrivateKey):
        raise ConfigError(f"--key: {str(key)!r} must be Ed25519, which Flower asks for: ssh-keygen -t ed25519")
    try:
        packed = build_fab_from_disk(folder)
    except Exception as error:  # whatever Flower's packing raises, of files that are the caller's
        raise ConfigError(f"DIR: {str(folder)!r} cannot be packed: {error}") from error
    found, hash_ = hashlib.sha256(packed), hashlib.sha256(packed).hexdigest()
    name = fingerprint(own.public_key())
    signature = sign(own, create_message_to_sign(found.digest(), now))
    entry = {"signature": base64.urlsafe_b64encode(signature).decode(), "signed_at": now}
    signatures = Signatures(out).all()
    signatures[hash_] = {**signatures.get(hash_, {}), name: entry}
    write_atomically(out, json.dumps(signatures, indent=1, sort_keys=True).encode())
    return hash_, name, text_of(own.public_key())
