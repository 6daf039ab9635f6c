"""Reads keys of clients and of signers of apps from OpenSSH files; signs and verifies with them."""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedlease.core.types import ClientId
from fedlease.data.reading.examples import client_id_fault
from fedlease.errors import ConfigError

__all__ = [
    "LONGEST",
    "PublicKey",
    "clients_of",
    "fingerprint",
    "keys_of",
    "private_key",
    "public_key",
    "sign",
    "text_of",
    "verifies",
]

PrivateKey: TypeAlias = EllipticCurvePrivateKey | Ed25519PrivateKey
PublicKey: TypeAlias = EllipticCurvePublicKey | Ed25519PublicKey

KINDS = "must be a key of a NIST curve or Ed25519: ssh-keygen -t ecdsa -b 384"
LONGEST = 1000
"""Most characters of a public key as text, and of a signature."""

MOST_CLIENTS = 100_000


def public_key(text: str) -> PublicKey:
    """Reads a key from the text of an OpenSSH ``.pub`` file.

    Raises:
        ConfigError: it is no key, or neither of a NIST curve, which Flower requires, nor Ed25519.
    """
    with _no_key():
        key = load_ssh_public_key(text.encode())
    if not isinstance(key, EllipticCurvePublicKey | Ed25519PublicKey):
        raise ConfigError(KINDS)
    return key


def private_key(path: Path, key: str) -> PrivateKey:
    """Reads a private key from a file without a passphrase.

    Args:
        path: the file.
        key: key of the setting that names it, for errors.

    Raises:
        ConfigError: there is no such file, or it has no such key.
    """
    try:
        with _no_key():
            found = load_ssh_private_key(_read(path), None)
        if not isinstance(found, EllipticCurvePrivateKey | Ed25519PrivateKey):
            raise ConfigError(KINDS)
    except OSError as error:
        raise ConfigError(f"{key}: {str(path)!r} cannot be read: {error.strerror or error}") from error
    except ConfigError as error:
        raise ConfigError(f"{key}: {str(path)!r} {error}") from error
    return found


def _read(path: Path) -> bytes:
    # Links are followed, since orchestrators mount secrets as links.
    with path.open("rb") as file:
        return file.read(64 * LONGEST)


@contextmanager
def _no_key() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"holds no key that OpenSSH writes without a passphrase: {type(error).__name__}") from error


def text_of(key: PublicKey) -> str:
    """A public key as OpenSSH writes it, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def fingerprint(key: PublicKey) -> str:
    """The fingerprint of a key as ``ssh-keygen -l`` shows it, such as ``SHA256:kfzA...``."""
    blob = base64.b64decode(text_of(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def sign(key: PrivateKey, statement: bytes) -> bytes:
    """The signature of a statement."""
    return key.sign(statement) if isinstance(key, Ed25519PrivateKey) else key.sign(statement, ECDSA(SHA256()))


def verifies(key: PublicKey, statement: bytes, signature: bytes) -> bool:
    """Whether the owner of ``key`` made this signature of ``statement``."""
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, statement)
        else:
            key.verify(signature, statement, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def keys_of(folder: Path, key: str) -> dict[ClientId, PublicKey]:
    """Reads the key of every client from the ``.pub`` files of a folder, which are named after the clients' ids.

    Args:
        folder: the folder.
        key: key of the setting that names the folder, for errors.

    Raises:
        ConfigError: there is no such folder, a file has no key, or two clients have one key; it has every fault.
    """
    if not folder.is_dir():
        raise ConfigError(f"{key}: {str(folder)!r} is no folder; it must be one with a file ID.pub for every client")
    found, prints, faults = dict[ClientId, PublicKey](), dict[str, ClientId](), list[str]()
    for path in sorted(folder.glob("*.pub"))[:MOST_CLIENTS]:
        client = path.name.removesuffix(".pub")
        try:
            found[client] = public_key(_read(path).decode(errors="replace"))
        except (OSError, ConfigError) as error:
            faults.append(f"{key}: {str(path)!r} {error}")
            continue
        if fault := client_id_fault(client):
            faults.append(f"{key}: {str(path)!r}: the client id {fault}")
        other = prints.setdefault(fingerprint(found[client]), client)
        if other != client:
            faults.append(f"{key}: clients {other!r} and {client!r} have one key; each needs its own")
    if faults:
        raise ConfigError(faults)
    return found


def clients_of(folder: Path, key: str) -> dict[str, ClientId]:
    """Fingerprint of a key -> its client; parameters and errors are those of :func:`keys_of`."""
    return {fingerprint(own): client for client, own in keys_of(folder, key).items()}
