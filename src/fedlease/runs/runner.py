"""One run in this process, from settings or from its folder."""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedlease.client.cache import WorkCache
from fedlease.client.stacked import Stacker
from fedlease.client.stacked_training import StackedTrainer
from fedlease.client.worker import ClientWorker
from fedlease.config.settings import Settings
from fedlease.core.codec import digest
from fedlease.core.types import ClientId
from fedlease.data.federation import Federation
from fedlease.errors import within_limits
from fedlease.methods.registry import CENTRALISED
from fedlease.runs.continuing import read_origin
from fedlease.runs.going_back import go_back
from fedlease.runs.machine import resolve_machine
from fedlease.runs.methods import RunInputs, finished, run_methods
from fedlease.runs.open import Prepared, optimiser_of, participation_of, prepare
from fedlease.runs.preconditions import check_fit
from fedlease.runs.privacy import privacy_notes, terms_of, trainer_of
from fedlease.runs.stacking import with_clients_per_step
from fedlease.runs.sums import members_of, sum_notes, with_sums
from fedlease.server.events import BatchTrained, Listener
from fedlease.server.filters import Filtered, make_filters
from fedlease.server.in_process import InProcess
from fedlease.server.memories import Memories
from fedlease.server.pooled import Pooled, PooledTrainer
from fedlease.server.transport import Channel, Traffic, Transport
from fedlease.storage.environment import read_environment
from fedlease.storage.run_folder import check_no_run, read_settings, run_lock, start_run
from fedlease.storage.shelf import Shelf
from fedlease.storage.summary import Summary

__all__ = ["Around", "resume", "run_settings"]

Around = Callable[[Transport], Transport]
"""Wraps the transport of a run, between its filters and its clients."""


def run_settings(
    settings: Settings,
    out: Path,
    listeners: Sequence[Listener] = (),
    shared: Path | None = None,
    data: object = None,
    *,
    rows: Federation | None = None,
    continue_from: Path | None = None,
    new_rows: bool = False,
    around: Around | None = None,
) -> dict[str, Summary]:
    """Runs the method and its baselines into a new folder.

    Args:
        settings: of the run.
        out: folder to write.
        listeners: receive every event.
        shared: folder of first steps that are shared with other runs; None shares them only within the run.
        data: rows in memory, as for :func:`fedlease.data.load.load_federation`.
        rows: of the settings or ``data``, if they have been read already.
        continue_from: folder of a finished run that this one continues, with settings made by
            :func:`fedlease.runs.continued_settings.continued_settings`; None starts a new run.
        new_rows: whether the rows may differ from those of ``continue_from``.
        around: wraps the transport, for experiments with lying clients; None does not.

    Returns:
        Method -> its result, the main method first.

    Raises:
        InputError: settings, data or model are wrong, or ``out`` already contains a run; nothing was trained.
        RunFailedError: the run cannot continue; ``resume`` continues from its last step.
    """
    check_no_run(out)
    settings = resolve_machine(settings)
    begin = within_limits(f"the run in {out} was not started", "make room and run the same command again")
    with begin, ExitStack() as stack:
        # Nothing is written to ``out`` before all checks have passed.
        origin = None if continue_from is None else read_origin(continue_from, settings)
        if origin is None:
            prepared = prepare(settings, data=data, rows=rows)
        else:
            prepared = origin.prepare(settings, data, new_rows=new_rows)
        prepared = with_clients_per_step(prepared)
        federation, loaded = prepared.federation, prepared.loaded
        cards = {data.id: data.card() for data in federation}
        check_fit(loaded, prepared.heads, cards, federation.skipped)
        stack.enter_context(run_lock(out))
        start_run(
            out,
            loaded.settings,
            cards,
            federation.fingerprint(),
            (*federation.warnings, *loaded.base.warnings),
            made=loaded.made,
            skipped=federation.skipped,
            base_files=loaded.base_files,
            continued=origin.chain if origin is not None else (),
            before=partial(origin.hand_over, out, loaded.settings, cards) if origin is not None else None,
        )
        lock = stack.pop_all()
    with lock:
        return _run(out, prepared, listeners, shared, around, resumed=False)


def resume(
    out: Path,
    listeners: Sequence[Listener] = (),
    shared: Path | None = None,
    data: object = None,
    *,
    to: int | None = None,
    without: Sequence[ClientId] = (),
    around: Around | None = None,
) -> dict[str, Summary]:
    """Continues a run from its last complete step; a finished run does not change, unless it must go back.

    Args:
        out: run folder.
        listeners: receive every event.
        shared: as for :func:`run_settings`.
        data: the rows with which the run started, if they were in memory.
        to: first round to repeat, 0 for the warm-up, see :func:`fedlease.runs.going_back.go_back`.
        without: clients that take no part from then on.
        around: as for :func:`run_settings`.

    Returns:
        Method -> its result, the main method first.

    Raises:
        RunFolderError: the folder has no run or a damaged one, or the rows or the base model are no longer those with
            which the run started.
        ConfigError: this machine does not have the device of the run.
    """
    settings = read_settings(out)
    if to is not None or without:
        with run_lock(out), within_limits(f"{out} was not taken back", "make room and try again", out):
            go_back(out, to or 0, without, data)
        settings = read_settings(out)
    summaries = finished(out, settings)
    if summaries is not None:
        return summaries
    settings = resolve_machine(settings)
    with run_lock(out), within_limits(f"the run in {out} was not resumed", "make room and resume it again", out):
        prepared = with_clients_per_step(prepare(settings, out, data))
        return _run(out, prepared, listeners, shared, around, resumed=True)


def _run(
    out: Path,
    prepared: Prepared,
    listeners: Sequence[Listener],
    shared: Path | None,
    around: Around | None,
    *,
    resumed: bool,
) -> dict[str, Summary]:
    loaded, settings = prepared.loaded, prepared.loaded.settings
    names = (settings.method, *settings.baselines)
    # First steps are cached only if another method or run can use them.
    shares = shared is not None or len({*names} - {CENTRALISED}) > 1
    start = loaded.adapter if shares else None
    with tempfile.TemporaryDirectory(prefix="fedlease-") as scratch:
        cache = WorkCache(_context(out, prepared), start, shared or Path(scratch), shared=shared is not None)
        # Pooled training has no first steps to share.
        scores_alone = replace(cache, start=None)
        shelf = Shelf(Path(scratch) / "private")
        score_rounds = participation_of(settings).score_rounds

        cards = {data.id: data.card() for data in prepared.federation}
        filters = make_filters(settings.filters, loaded.adapter.tensors)
        most = settings.clients_per_step
        terms = terms_of(settings, secret=False)
        trainer_alone = trainer_of(loaded, terms)
        stacked = StackedTrainer(loaded.resident, optimiser_of(settings))
        stacker = Stacker(stacked, most) if isinstance(most, int) and most > 1 else None

        def channel(name: str, tell: Listener) -> Channel:
            pooled = name == CENTRALISED
            trainer = PooledTrainer(loaded.resident, optimiser_of(settings)) if pooled else trainer_alone

            def on_batch(client: ClientId, done: int, total: int, loss: float) -> None:
                tell(BatchTrained(name, client, done, total, loss))

            workers = {
                client: ClientWorker(
                    rows,
                    trainer,
                    score_rounds,
                    cache=scores_alone if pooled else cache,
                    on_batch=on_batch,
                    keep=shelf,
                    terms=terms,
                )
                for client, rows in prepared.clients.items()
            }
            if isinstance(trainer, PooledTrainer):
                return Channel(Pooled(cards, workers, Traffic(), trainer=trainer), workers=workers)
            traffic, memories = Traffic(), Memories()
            members = members_of(settings, workers)
            inner = InProcess(cards, workers, traffic, filters, stacker, memories, members)
            reached = inner if around is None else around(inner)
            return Channel(
                with_sums(Filtered(reached, filters, memories), inner, settings, cards), traffic, workers, memories
            )

        inputs = RunInputs(
            loaded=loaded,
            cards=cards,
            warnings=(*prepared.warnings, *privacy_notes(loaded, cards), *sum_notes(settings)),
            heads=prepared.heads,
            channel=channel,
            skipped=prepared.federation.skipped,
        )
        return run_methods(out, inputs, listeners, resumed=resumed)


def _context(out: Path, prepared: Prepared) -> str:
    """A digest of everything on which a client's first step depends, besides its task."""
    settings = prepared.loaded.settings.model_dump(mode="json")
    of_model = ("model", "revision", "dtype", "base")
    names = (
        "seed",
        "task",
        "metric",
        *of_model,
        "data",
        "train",
        "privacy",
        "multilabel",
        "generation",
        "threads",
        "device",
        "clients_per_step",
    )
    base = read_environment(out).base_files
    content = [{name: settings[name] for name in names}, prepared.federation.fingerprint(), base]
    return digest(json.dumps(content, sort_keys=True).encode())
