"""The server's side of a run: runs the methods one after another and writes the run folder, for any transport."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

from fedlease._version import __version__
from fedlease.config.settings import Settings
from fedlease.core.codec import digest
from fedlease.core.low_rank import at_rank
from fedlease.core.screening import Bounds
from fedlease.core.types import ClientId, ClientModel
from fedlease.core.wording import counted
from fedlease.data.federation import ClientCard
from fedlease.errors import within_limits
from fedlease.methods.head import Head
from fedlease.methods.registry import CENTRALISED
from fedlease.reporting.run.page import write_report
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.verdict import conclude
from fedlease.runs.building import build_method
from fedlease.runs.open import Loaded, participation_of, stopping_of
from fedlease.server.events import Allocated, Event, Listener, MethodFinished, RunFinished, RunStarted, StepStarted
from fedlease.server.loop import RoundLoop
from fedlease.server.recorded import Recorded, decisions
from fedlease.server.schedule import make_schedule
from fedlease.server.scoring import summarise
from fedlease.server.screen import Screen
from fedlease.server.transport import Channel
from fedlease.storage.allocation import write_allocation
from fedlease.storage.audit import Trail
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.environment import read_environment
from fedlease.storage.predictions import lines_of, write_predictions
from fedlease.storage.rounds import read_rounds, spent_by, suspects_of
from fedlease.storage.run_folder import method_files, read_clients, write_clients
from fedlease.storage.summary import Summary, contents_of, read_result, write_result, write_summary

__all__ = ["RunInputs", "finished", "run_methods"]


@dataclass(frozen=True)
class RunInputs:
    """Inputs of the server's side of a run.

    Attributes:
        loaded: settings, base model and initial adapter.
        cards: client -> its card; the transport adds late clients.
        warnings: about the data, one sentence each.
        heads: client -> initial head.
        channel: function of a method's name and a listener for its progress, which returns the channel to its clients.
        skipped: client -> the reason why it takes no part.
    """

    loaded: Loaded
    cards: Mapping[ClientId, ClientCard]
    warnings: tuple[str, ...]
    heads: Mapping[ClientId, Head]
    channel: Callable[[str, Listener], Channel]
    skipped: Mapping[ClientId, str] = field(default_factory=dict)


def run_methods(
    out: Path, inputs: RunInputs, listeners: Sequence[Listener] = (), *, resumed: bool
) -> dict[str, Summary]:
    """Runs the method and its baselines from their last steps to the end, and writes the report.

    Args:
        out: run folder, made by :func:`fedlease.storage.run_folder.start_run`.
        inputs: of the server's side of the run.
        listeners: receive every event.
        resumed: whether the run was started before.

    Returns:
        Method -> its result, the main method first.

    Raises:
        RunFailedError: the run cannot continue; resuming it starts from its last step.
    """
    settings = inputs.loaded.settings
    before = read_environment(out).continued
    started = RunStarted(
        out=out,
        settings=settings.model_dump(mode="json"),
        tasks={client: card.task for client, card in inputs.cards.items()},
        train_rows={client: card.train_rows for client, card in inputs.cards.items()},
        test_rows={client: card.test_rows for client, card in inputs.cards.items()},
        warnings=inputs.warnings,
        resumed=resumed,
        skipped=inputs.skipped,
        continues=f"{before[-1].name}, after {counted(before[-1].rounds, 'round')}" if before else "",
    )
    with within_limits(f"the run in {out} stopped", f"make room, then go on with: fedlease resume {out}", out):
        _tell(listeners, started)
        trail = _trail(out, settings, resumed=resumed) if settings.audit else None
        names = (settings.method, *settings.baselines)
        try:
            summaries = {name: _method(out, inputs, name, listeners, trail) for name in names}
        finally:
            if trail is not None:
                trail.flush()
        summaries = _concluded(out, settings, summaries)
        _tell(listeners, RunFinished(out, contents_of(summaries)))
    return summaries


def finished(out: Path, settings: Settings) -> dict[str, Summary] | None:
    """The summaries of a finished run; None if a method has no complete result.

    If the run was stopped between its last result and its report, the verdict and the report are written now.

    Raises:
        RunFolderError: a result is damaged.
        RunFailedError: the report cannot be written.
    """
    summaries: dict[str, Summary] = {}
    for name in (settings.method, *settings.baselines):
        summary = read_result(method_files(out, settings, name))
        if summary is None:
            return None
        summaries[name] = summary
    # A folder with a client's own model, written by a node, has neither rounds nor a report.
    if (out / "state").is_dir() and not (out / "report.html").is_file():
        return _concluded(out, settings, summaries)
    return summaries


def _concluded(out: Path, settings: Settings, summaries: Mapping[str, Summary]) -> dict[str, Summary]:
    """Adds the verdict, which needs all methods, to the main method's summary, and writes the report last."""
    main = summaries[settings.method]
    if main.verdict is None:
        with within_limits(f"the verdict of {out} was not written", f"make room, then: fedlease resume {out}", out):
            main = main.model_copy(update={"verdict": conclude(read_run(out))})
            write_summary(method_files(out, settings, settings.method), main)
    write_report(out)
    return {**summaries, settings.method: main}


def _trail(out: Path, settings: Settings, *, resumed: bool) -> Trail:
    """The run's audit trail, with a line about this start."""
    trail, environment = Trail.of(out), read_environment(out)
    trail.add(
        "began",
        resumed=resumed,
        run=environment.run,
        fedlease=__version__,
        method=settings.method,
        model=settings.model,
        settings_sha256=digest(settings.model_dump_json().encode()),
        base_files=environment.base_files,
        data_sha256=environment.data_fingerprint,
        **({} if (given := settings.privacy).epsilon is None else {"epsilon": given.epsilon, "delta": given.delta}),
    )
    trail.flush()
    return trail


def _method(
    out: Path, inputs: RunInputs, name: str, listeners: Sequence[Listener], trail: Trail | None = None
) -> Summary:
    settings, adapter = inputs.loaded.settings, inputs.loaded.adapter
    files = method_files(out, settings, name)
    files.folder.mkdir(parents=True, exist_ok=True)
    result = read_result(files)
    if result is not None:
        _tell(listeners, MethodFinished(name, result.content))
        return result

    written = len(read_clients(out))

    def tasks() -> dict[ClientId, str]:
        return {client: card.task for client, card in inputs.cards.items()}

    def write_cards() -> None:
        nonlocal written
        if len(inputs.cards) != written:  # cards are only ever added
            write_clients(out, dict(sorted(inputs.cards.items())))
            written = len(inputs.cards)

    def write(event: Event) -> None:
        if isinstance(event, Allocated):
            write_allocation(files, event.allocation, None, tasks())
        # Cards are written before a checkpoint refers to their clients.
        if isinstance(event, StepStarted):
            write_cards()

    method = build_method(settings, name, inputs.heads)
    recorded = trail is not None and name != CENTRALISED  # with pooled rows, nothing is sent
    noted: list[Listener] = [partial(decisions, trail)] if trail is not None and recorded else []
    heard = (write, *noted, *listeners)
    channel = inputs.channel(name, lambda event: _tell(heard, event))
    if trail is not None and recorded:
        channel = replace(channel, transport=Recorded(channel.transport, trail, name))
    loop = RoundLoop(
        name,
        method,
        channel,
        participation_of(settings),
        Checkpoint(files.folder, settings.checkpoints),
        heard,
        settings.seed,
        make_schedule(*settings.schedule.values()),
        stopping_of(settings),
        Screen(bounds_of(settings, name), warmups_alone=settings.privacy.secure_sums),
    )
    state = loop.run(adapter)
    write_cards()
    if state.allocation is not None:
        write_allocation(files, state.allocation, state.centroids, tasks())

    def untrained(client: ClientId) -> ClientModel:
        own = at_rank(adapter, settings.lora.of(client))
        return replace(own, tensors={**own.tensors, **inputs.heads[client].tensors})

    found = loop.finish(untrained)
    summary = summarise(loop, method, state, settings.task, inputs.loaded.resident.task, found, inputs.skipped)
    lines = read_rounds(files.folder)
    summary = summary.model_copy(update={"suspects": suspects_of(lines), "epsilon": spent_by(lines)})
    row_scores = {client: row.row_scores for client, row in found.items() if row.row_scores}
    samples = {client: list(row.samples) for client, row in found.items() if row.samples}
    if settings.keep_predictions:
        workers, root = loop.channel.workers or {}, settings.data.path
        kept = (lines_of(worker.client.data, worker.predictions, root) for _, worker in sorted(workers.items()))
        write_predictions(files, chain.from_iterable(kept))
    write_result(files, summary, row_scores, samples)
    _tell(heard, MethodFinished(name, summary.content))
    return summary


def bounds_of(settings: Settings, method: str) -> Bounds:
    """The rules for updates; no rules for pooled rows, where no updates are sent."""
    given, train = settings.bounds, settings.train
    if method == CENTRALISED:
        return Bounds()
    of_training = train.lr, train.weight_decay, train.batch_size, settings.privacy.epsilon is not None
    return Bounds(given.norm, given.step, given.copies, given.against, *of_training)


def _tell(listeners: Sequence[Listener], event: Event) -> None:
    for listener in listeners:
        listener(event)
