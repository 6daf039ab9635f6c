"""The checkpoint of a method on disk, written so that a kill at any moment leaves the last complete step.

``state/manifest.json`` is the only commit point. It names immutable files by their content's hash; everything else in
``state/`` is left over from an interrupted step and deleted on resume.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlease.core.codec import digest, dumps
from fedlease.core.types import ClientId, Tensors
from fedlease.errors import RunFailedError, RunFolderError
from fedlease.files import append, sweep, write_atomically
from fedlease.methods.base import State
from fedlease.methods.registry import known_methods, load_method
from fedlease.storage.documents import read_lines
from fedlease.storage.manifest import BestStep, CompleteStep, Manifest, StepFiles
from fedlease.storage.run_files import read_sealed, write_sealed
from fedlease.storage.saved import Best, Saved
from fedlease.storage.state_files import StateFiles

__all__ = ["Checkpoint"]

TRIES = 5
"""Number of times that a reader starts over because a running process has written another step."""


class Checkpoint:
    """The ``state`` folder and ``rounds.jsonl`` of one method.

    Args:
        folder: the method's folder: the run folder, or ``baselines/<method>`` in it.
        keep: number of earlier steps to keep, so that a run can go back to them.
    """

    def __init__(self, folder: Path, keep: int = 0) -> None:
        self.folder = folder
        self.keep = keep
        self.state = folder / "state"
        self.manifest = self.state / "manifest.json"
        self.rounds = folder / "rounds.jsonl"
        self._lines = 0
        self._files = StateFiles(self.state)

    def load(self) -> Saved | None:
        """The last complete step; None if there is none yet. Changes nothing on disk; see :meth:`clean`.

        Raises:
            RunFolderError: the manifest or a file it names is damaged, missing, or of another version.
        """
        for tries_left in reversed(range(TRIES)):
            manifest = read_sealed(self.manifest, Manifest)
            if manifest is None:
                return None
            try:
                return self._load(manifest)
            except RunFolderError:
                if not tries_left or read_sealed(self.manifest, Manifest) == manifest:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def _load(self, manifest: Manifest) -> Saved:
        if manifest.method not in known_methods():
            raise RunFolderError(f"{self.folder}: its method {manifest.method!r} is not installed here")
        load_method(manifest.method)  # only classes that have been imported can be read
        self.lines()
        self._lines = manifest.rounds_lines
        found = manifest.best
        best = None
        if found is not None:
            best = Best(found.step, found.value, *self._read_step(found), found.waited, found.values)
        state, private = self._read_step(manifest)
        noted = self._read_noted(manifest)
        return Saved(manifest.method, manifest.step, state, private, manifest.totals, manifest.finished, best, **noted)

    def earlier(self) -> dict[int, Saved]:
        """Round -> the stored step before it, to which a method can go back.

        Raises:
            RunFolderError: see :meth:`load`.
        """
        manifest = read_sealed(self.manifest, Manifest)
        if manifest is None:
            return {}
        load_method(manifest.method)
        found: dict[int, Saved] = {}
        for step in manifest.earlier:
            if step.round not in found:  # the first of several waves of the warm-up
                state, private = self._read_step(step)
                noted = self._read_noted(step)
                found[step.round] = Saved(manifest.method, step.step, state, private, step.totals, **noted)
        return found

    def go_back(self, saved: Saved) -> None:
        """Makes an earlier step, possibly changed, the last one; removes later lines of ``rounds.jsonl``.

        Raises:
            RunFailedError: it cannot be written.
        """
        manifest = read_sealed(self.manifest, Manifest)
        assert manifest is not None  # it has earlier steps
        (step,) = (step for step in manifest.earlier if step.step == saved.step)
        self._lines = step.rounds_lines
        self.commit(saved)
        self.clean()

    def forget(self) -> None:
        """Deletes every step, so that the method begins anew."""
        self.manifest.unlink(missing_ok=True)
        self.clean()

    def _read_noted(self, step: CompleteStep) -> dict[str, Any]:
        """The memory of the screen and the filters after a step, as fields of :class:`Saved`."""
        named = {} if step.seen is None else self._files.read(step.seen)
        seen = {client: {int(number): one for number, one in steps.items()} for client, steps in named.items()}
        received, residuals = ({}, {}) if step.filters is None else self._files.read(step.filters)
        return {"seen": seen, "received": received, "residuals": residuals}

    def _read_step(self, step: StepFiles) -> tuple[Any, dict[ClientId, dict[str, Tensors]]]:
        """The state and the clients' private tensors of a step."""
        state, private = self._files.read_step(step)
        if not isinstance(state, State):
            raise RunFolderError(f"{self.state / step.state.file} is damaged: it contains a {type(state).__name__}")
        return state, private

    def history(self) -> list[bytes]:
        """Reads the lines of ``rounds.jsonl`` up to the step that :meth:`load` returned."""
        return self.lines()[: self._lines]

    def take_over(self, saved: Saved, lines: Sequence[bytes]) -> None:
        """Starts from a step of another run, with its lines of ``rounds.jsonl``.

        Raises:
            OSError: the folder cannot be written.
            RunFailedError: the step cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.rounds, _joined(lines))
        self._lines = len(lines)
        self.commit(saved)

    def lines(self) -> list[bytes]:
        """Reads all lines of ``rounds.jsonl``, including those after the complete steps that the manifest covers.

        Raises:
            RunFolderError: the covered lines are not as they were written.
        """
        manifest = read_sealed(self.manifest, Manifest)
        lines = read_lines(self.rounds)
        if manifest is not None and digest(_joined(lines[: manifest.rounds_lines])) != manifest.rounds_sha256:
            raise RunFolderError(f"{self.rounds} is damaged: its SHA-256 is not the one in the manifest")
        return lines

    def clean(self) -> None:
        """Deletes files that the manifest does not name and cuts ``rounds.jsonl`` to the manifest's step."""
        manifest, self._files = read_sealed(self.manifest, Manifest), StateFiles(self.state)
        named = set() if manifest is None else manifest.named
        self._lines = 0 if manifest is None else manifest.rounds_lines
        sweep(self.folder)
        if self.state.is_dir():
            sweep(self.state)
            for path in self.state.iterdir():
                if path.is_dir():
                    raise RunFolderError(f"{path} is a folder, and the run wrote only files there")
                if path != self.manifest and path.name not in named:
                    path.unlink()
        if self.rounds.is_file():
            write_atomically(self.rounds, _joined(read_lines(self.rounds)[: self._lines]))

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
            self._files.begin()
            files, best = self._files.write_step(saved.state, saved.private), None
            if (kept := saved.best) is not None:
                own = self._files.write_step(kept.state, kept.private)
                numbers: Any = {
                    "step": kept.step,
                    "value": kept.value,
                    "waited": kept.waited,
                    "values": dict(kept.clients),
                }
                best = BestStep(**numbers, **own)
            seen = {c: {str(number): one for number, one in steps.items()} for c, steps in saved.seen.items()}
            written, lines = self._written(), self._lines
            if record is not None:
                line = _line(record)
                append(self.rounds, line, len(written))
                written, lines = written + line, lines + 1
            filters = (dict(saved.received), dict(saved.residuals))
            manifest = Manifest(
                method=saved.method,
                step=saved.step,
                round=saved.state.round,
                finished=saved.finished,
                rounds_lines=lines,
                rounds_sha256=digest(written),
                totals=dict(saved.totals),
                **files,
                best=best,
                seen=self._files.write(dumps(seen)) if seen else None,
                filters=self._files.write(dumps(filters)) if any(filters) else None,
                earlier=self._kept(saved.step),
            )
            write_sealed(self.manifest, manifest)
            self._lines = lines
        except OSError as error:
            raise RunFailedError(
                f"step {saved.step} of {saved.method} could not be written to {self.folder}: {error}; "
                "the last complete step is on disk, continue with: fedlease resume"
            ) from error
        named = manifest.named
        for path in self.state.iterdir():
            if path != self.manifest and path.name not in named:
                path.unlink()

    def note(self, record: Mapping[str, Any]) -> None:
        """Appends a line about a step that failed; it stays until the run is resumed.

        Raises:
            RunFailedError: it cannot be written.
        """
        try:
            # Replaces a line that a failed commit may have left after the complete steps.
            append(self.rounds, _line(record), len(self._written()))
        except OSError as error:
            raise RunFailedError(f"{self.rounds} cannot be written: {error}; it was to hold {dict(record)}") from error

    def _kept(self, step: int) -> list[CompleteStep]:
        """The steps before a given one that stay on disk."""
        last = read_sealed(self.manifest, Manifest) if self.keep else None
        if last is None:
            return []
        now = CompleteStep.model_validate(last.model_dump(include={*CompleteStep.model_fields}))
        return [one for one in (*last.earlier, now) if one.step < step][-self.keep :]

    def _written(self) -> bytes:
        return _joined(read_lines(self.rounds)[: self._lines])


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)
