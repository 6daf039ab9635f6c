"""Where a method's run stands, on disk: written so that a kill at any moment leaves the last complete step.

``state/manifest.json`` is the only commit point. It names immutable files by their content's hash; everything else in
``state/`` is left over from an interrupted step and deleted on resume.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlease import __version__
from fedlease.core.codec import CodecError, digest, dumps, loads
from fedlease.core.types import ClientId, Tensors
from fedlease.errors import RunFailedError, RunFolderError
from fedlease.files import append, sweep, write_atomically
from fedlease.methods import known_methods, method_class
from fedlease.methods.head import HeadState

__all__ = ["FORMAT", "Checkpoint", "Saved"]

FORMAT = 1
"""Raised when a newer fedlease writes what an older one would misread."""


@dataclass(frozen=True)
class Saved:
    """Everything needed to go on.

    Attributes:
        method: name.
        step: steps (warm-up waves and rounds) behind it.
        state: the method's, in most runs a :class:`~fedlease.methods.head.HeadState` around it.
        private: client -> slot -> tensors, see ``ClientStore``.
        totals: running sums: bytes, seconds, steps.
        finished: no round is left.
    """

    method: str
    step: int
    state: HeadState | Any
    private: Mapping[ClientId, Mapping[str, Tensors]]
    totals: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False


class Checkpoint:
    """The ``state`` folder and ``rounds.jsonl`` of one method.

    Args:
        folder: of the method: the run folder, or ``baselines/<method>`` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.manifest = self.state / "manifest.json"
        self.rounds = folder / "rounds.jsonl"
        self._lines = 0

    def load(self) -> Saved | None:
        """The last complete step, or None before the first. Changes nothing on disk; see :meth:`clean`.

        Raises:
            RunFolderError: the manifest or a file it names is damaged, missing, or of another version.
        """
        if not self.manifest.is_file():
            return None
        manifest = self._read_manifest()
        if isinstance(name := manifest.get("method"), str) and name not in known_methods():
            raise RunFolderError(f"{self.folder}: its method {name!r} is not installed here")
        try:
            method_class(manifest["method"])  # only classes that have been imported can be read
            state = self._read(manifest["state"])
            private = {
                client: {slot: self._read(entry) for slot, entry in slots.items()}
                for client, slots in manifest["clients"].items()
            }
            self._lines = int(manifest["rounds_lines"])
            saved = Saved(
                method=manifest["method"],
                step=int(manifest["step"]),
                state=state,
                private=private,
                totals=manifest["totals"],
                finished=bool(manifest["finished"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(f"{self.manifest} is damaged: {type(error).__name__} {error}") from error
        return saved

    def clean(self) -> None:
        """Deletes files that the manifest does not name and cuts ``rounds.jsonl`` to the manifest's step."""
        named: set[str] = set()
        if self.manifest.is_file():
            manifest = self._read_manifest()
            named = _named_files(manifest)
            self._lines = int(manifest["rounds_lines"])
        else:
            self._lines = 0
        sweep(self.folder)
        if self.state.is_dir():
            sweep(self.state)
            for path in self.state.iterdir():
                if path.is_dir():
                    raise RunFolderError(f"{path} is a folder, where the run keeps files alone")
                if path != self.manifest and path.name not in named:
                    path.unlink()
        if self.rounds.is_file():
            lines = self.rounds.read_bytes().split(b"\n")
            write_atomically(self.rounds, b"".join(line + b"\n" for line in lines[: self._lines]))

    def commit(self, saved: Saved, record: Mapping[str, Any] | None = None) -> None:
        """Writes a step: new files, the line of ``rounds.jsonl``, then the manifest.

        Args:
            saved: the step.
            record: the line to append, or None.

        Raises:
            RunFailedError: it cannot be written, for example because the disk is full; the last step stays.
        """
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            state = self._write(dumps(saved.state))
            clients = {
                client: {slot: self._write(dumps(dict(tensors))) for slot, tensors in slots.items()}
                for client, slots in saved.private.items()
            }
            lines = self._lines
            if record is not None:
                self._append(json.dumps(record, ensure_ascii=False))
                lines += 1
            manifest = {
                "format": FORMAT,
                "version": __version__,
                "method": saved.method,
                "step": saved.step,
                "round": saved.state.round,
                "finished": saved.finished,
                "rounds_lines": lines,
                "totals": dict(saved.totals),
                "state": state,
                "clients": clients,
            }
            write_atomically(self.manifest, json.dumps(manifest, indent=1).encode())
            self._lines = lines
        except OSError as error:
            raise RunFailedError(
                f"step {saved.step} of {saved.method} could not be written to {self.folder}: {error}; "
                "the last complete step is kept, go on with: fedlease resume"
            ) from error
        named = _named_files(manifest)
        for path in self.state.iterdir():
            if path != self.manifest and path.name not in named:
                path.unlink()

    def note(self, record: Mapping[str, Any]) -> None:
        """Appends a line about a step that failed; it stays until the run is resumed.

        Raises:
            RunFailedError: it cannot be written.
        """
        try:
            self._append(json.dumps(record, ensure_ascii=False))
        except OSError as error:
            raise RunFailedError(f"{self.rounds} cannot be written: {error}; it was to hold {dict(record)}") from error

    def _append(self, line: str) -> None:
        # Cut first: a commit that failed earlier may have left a line behind.
        lines = self.rounds.read_bytes().split(b"\n")[: self._lines] if self.rounds.is_file() else []
        keep = sum(len(kept) + 1 for kept in lines)
        append(self.rounds, line.encode() + b"\n", keep)

    def _write(self, blob: bytes) -> dict[str, str]:
        sha256 = digest(blob)
        name = f"{sha256[:32]}.safetensors"
        path = self.state / name
        if not path.is_file():
            write_atomically(path, blob)
        return {"file": name, "sha256": sha256}

    def _read(self, entry: Mapping[str, str]) -> Any:
        path = self.state / entry["file"]
        if path.parent != self.state:
            raise RunFolderError(f"{self.manifest} is damaged: it names a file outside the folder: {entry['file']}")
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise RunFolderError(f"{path} is named by the manifest and cannot be read: {error}") from error
        if digest(blob) != entry["sha256"]:
            raise RunFolderError(f"{path} is damaged: its SHA-256 is not the one in the manifest")
        try:
            return loads(blob)
        except CodecError as error:
            raise RunFolderError(f"{path} is damaged: {error}") from error

    def _read_manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads(self.manifest.read_bytes())
            found = manifest["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{self.manifest} is damaged: {type(error).__name__} {error}") from error
        if found != FORMAT:
            raise RunFolderError(
                f"{self.folder} was written in format {found} by fedlease {manifest.get('version')}; "
                f"this is fedlease {__version__}, which reads format {FORMAT}"
            )
        checked: dict[str, Any] = manifest
        return checked


def _named_files(manifest: Mapping[str, Any]) -> set[str]:
    entries = [manifest["state"], *(entry for slots in manifest["clients"].values() for entry in slots.values())]
    return {entry["file"] for entry in entries}
