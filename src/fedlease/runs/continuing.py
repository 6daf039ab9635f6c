"""A new run that continues a finished one, which is only read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedlease.client.store import ELSEWHERE
from fedlease.config.settings import Settings
from fedlease.core.types import ClientId
from fedlease.core.wording import counted, printable
from fedlease.data.federation import ClientCard, Federation
from fedlease.errors import DataError, RunFolderError
from fedlease.methods.continuing import grouping_again, with_rows
from fedlease.runs.continued_settings import rounds_behind
from fedlease.runs.open import Loaded, Prepared, load_run, prepared
from fedlease.runs.rows import rows_of
from fedlease.storage.allocation import write_allocation
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.environment import Continued, Environment, read_environment
from fedlease.storage.newcomers import read_newcomers
from fedlease.storage.run_files import MOST_WEIGHTS, RunFiles
from fedlease.storage.run_folder import method_files, read_clients, read_settings
from fedlease.storage.saved import Saved
from fedlease.storage.summary import read_result

__all__ = ["Origin", "read_origin"]


@dataclass(frozen=True)
class Origin:
    """A finished run that another one continues.

    Attributes:
        folder: its run folder.
        settings: its settings.
        environment: versions, data and model with which it started.
        cards: client -> its card.
        steps: method -> its last step, and the lines of ``rounds.jsonl`` up to it.
    """

    folder: Path
    settings: Settings
    environment: Environment
    cards: Mapping[ClientId, ClientCard]
    steps: Mapping[str, tuple[Saved, Sequence[bytes]]]

    @property
    def chain(self) -> list[Continued]:
        """The runs that the new one continues, the oldest first."""
        name = printable(self.folder.resolve().name, longest=200)
        last = Continued(run=self.environment.run, name=name, rounds=rounds_behind(self.folder, self.settings))
        return [*self.environment.continued, last]

    def prepare(self, settings: Settings, data: object = None, *, new_rows: bool) -> Prepared:
        """Prepares the new run up to its first step.

        Args:
            settings: of the new run.
            data: rows in memory, as for :func:`fedlease.data.load.load_federation`.
            new_rows: whether its rows may differ from those of the old run.

        Raises:
            DataError: the rows differ and may not, or a client is missing or has other labels.
            RunFolderError: the base model is no longer the one that the old run was trained on.
            InputError: as :func:`fedlease.runs.open.prepare`.
        """
        federation = rows_of(settings, data)
        same = federation.fingerprint() == self.environment.data_fingerprint
        if not same and not new_rows:
            raise DataError(
                f"the rows are not those of {self.folder}, so its scores could not be compared with the new ones; "
                "--new-rows (in Python new_rows=True) continues with them anyway"
            )
        if faults := [*self._missing(federation)]:
            raise DataError(faults)
        made = RunFiles(self.folder)
        base = {name: made.read(f"base/{name}", MOST_WEIGHTS) for name in made.digests("base")}
        loaded: Loaded = replace(load_run(settings, self.folder), made=base)
        notes = self._notes(federation, same=same)
        return prepared(replace(federation, warnings=(*federation.warnings, *notes)), loaded)

    def hand_over(self, out: Path, settings: Settings, cards: Mapping[ClientId, ClientCard]) -> None:
        """Writes the last step of every method, and its lines of ``rounds.jsonl``, into the new folder.

        Args:
            out: folder of the new run.
            settings: of the new run.
            cards: client -> its card in the new run.
        """
        rows = {client: card.weight for client, card in cards.items()}
        tasks = {client: card.task for client, card in cards.items()}
        for name in (settings.method, *settings.baselines):
            saved, lines = self.steps[name]
            again = settings.of_method(name).get("reallocate") is not None
            state = with_rows(grouping_again(saved.state, again=again), rows)
            files = method_files(out, settings, name)
            if (best := saved.best) is not None:
                # If metric and clients are the same, the old best round remains the one to beat.
                now, then = settings.early_stopping, self.settings.early_stopping
                same = now.patience is not None and now.metric == then.metric and dict(cards) == dict(self.cards)
                last = best.step
                lines = [line for line in lines if json.loads(line)["step"] <= last]
                # Updates after the best round may be repeated by the new run.
                seen = {c: {n: one for n, one in steps.items() if n <= last} for c, steps in saved.seen.items()}
                best, saved = (
                    replace(best, state=state, waited=0) if same else None,
                    replace(saved, step=last, seen=seen),
                )
            saved = replace(saved, state=state, finished=False, best=best)
            Checkpoint(files.folder).take_over(saved, lines)
            if state.allocation is not None:
                write_allocation(files, state.allocation, state.centroids, tasks)

    def _missing(self, federation: Federation) -> Iterator[str]:
        """Yields the reasons why the new run cannot continue with clients of the old one."""
        for client, card in sorted(self.cards.items()):
            now = federation.clients.get(client)
            if now is None:
                reason = federation.skipped.get(client)
                gone = f"is skipped: {reason}" if reason else "is not among the rows"
                yield f"client {client!r} of {self.folder} {gone}, and a run must continue with all of its clients"
            elif now.labels != card.labels:
                yield (
                    f"client {client!r}: its labels must be those of {self.folder}, {', '.join(card.labels)}, received "
                    f"{', '.join(now.labels)}; its head has one output per label"
                )

    def _notes(self, federation: Federation, *, same: bool) -> Iterator[str]:
        if not same:
            yield f"the rows differ from those of {self.chain[-1].name}, so scores before and after are of other rows"
        if late := sorted(federation.clients.keys() - self.cards.keys()):
            count = counted(len(late), "client")
            yield f"{count} {'was' if len(late) == 1 else 'were'} not in {self.chain[-1].name}: {', '.join(late)}"
        if onboarded := sorted(read_newcomers(self.folder).keys() - federation.clients.keys()):
            yield f"onboarded in {self.chain[-1].name} and not in this run: {', '.join(onboarded)}"


def read_origin(folder: Path, settings: Settings) -> Origin:
    """Reads a finished run that another one continues.

    Args:
        folder: its run folder.
        settings: of the new run, made by :func:`continued_settings`.

    Raises:
        RunFolderError: it has not finished, is damaged, or its clients keep a part of their models elsewhere.
    """
    old = read_settings(folder)
    steps = {}
    for name in (settings.method, *settings.baselines):
        files = method_files(folder, old, name)
        checkpoint = Checkpoint(files.folder)
        saved = None if read_result(files) is None else checkpoint.load()
        if saved is None or not saved.finished:
            raise RunFolderError(f"{folder}: {name} has not finished; end it first with: fedlease resume {folder}")
        if apart := [client for client, slots in saved.private.items() if ELSEWHERE in slots]:
            raise RunFolderError(
                f"{folder}: client {min(apart)!r} trained on its own machine and keeps a part of its model there, so "
                "the run cannot continue here; start the Flower server anew with more rounds"
            )
        steps[name] = saved, checkpoint.history()
    return Origin(folder, old, read_environment(folder), read_clients(folder), steps)
