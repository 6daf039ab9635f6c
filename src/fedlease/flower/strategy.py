"""The server: any method of fedlease as a Flower strategy, with the same run folder as other engines."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedlease._version import __version__
from fedlease.client.batch_check import check_batches
from fedlease.config.settings import OF_A_CALL, Settings
from fedlease.core.codec import digest
from fedlease.core.types import ClientId
from fedlease.data.federation import ClientCard
from fedlease.data.labels import one_label_notes
from fedlease.errors import ConfigError, RunFolderError, within_limits
from fedlease.flower.bounds import MOST_ROWS
from fedlease.flower.connection import Connection
from fedlease.flower.keys import clients_of
from fedlease.flower.messages import Envelope
from fedlease.flower.transport import Checked, FlowerTransport
from fedlease.methods.registry import CENTRALISED
from fedlease.models.fingerprints import fingerprint
from fedlease.runs.building import methods_of
from fedlease.runs.heads import Heads
from fedlease.runs.machine import resolve_machine
from fedlease.runs.methods import RunInputs, finished, run_methods
from fedlease.runs.open import Loaded, load_run
from fedlease.runs.preconditions import check_fit
from fedlease.runs.sums import sum_notes, with_sums
from fedlease.server.events import Listener
from fedlease.server.filters import Filtered, make_filters
from fedlease.server.memories import Memories
from fedlease.server.transport import Channel, Traffic
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.environment import new_identity, read_environment
from fedlease.storage.rounds import read_rounds
from fedlease.storage.run_folder import changed_settings, read_clients, read_settings, run_lock, start_run
from fedlease.storage.summary import contents_of

__all__ = ["FedLeaseStrategy", "resumed_settings"]

MAY_DIFFER: Any = {**OF_A_CALL, "data": {"path"}, "device": True, "threads": True, "clients_per_step": True}
"""Settings of a call or a machine, which may differ when a run is resumed; rows are compared by their fingerprint."""


def resumed_settings(out: Path, wanted: Settings) -> Settings:
    """The settings with which a run is resumed: those in its folder, with the settings of a call from ``wanted``.

    Args:
        out: run folder.
        wanted: settings given now, with threads and device resolved.

    Raises:
        RunFolderError: it is no run folder, or other settings differ, which would have no effect; the error has both
            values of each.
    """
    found = read_settings(out)
    changed = changed_settings(found, wanted, MAY_DIFFER)
    if changed:
        other = "; ".join(f"{key} is {there!r} there, {here!r} here" for key, there, here in changed)
        raise RunFolderError(f"{out}: holds a run with other settings, choose another folder: {other}")
    update: dict[str, Any] = {}
    for section, names in OF_A_CALL.items():
        given = getattr(wanted, section)
        changes = {name: getattr(given, name) for name in (type(given).model_fields if names is True else names)}
        update[section] = getattr(found, section).model_copy(update=changes)
    return found.model_copy(update=update)


class FedLeaseStrategy(Strategy):
    """Runs the method of the settings, and its baselines, over the nodes of a grid.

    Flower's own loop has one model and one kind of round. A warm-up in waves, a payload of its own for every node, and
    resuming from a checkpoint need more. So ``start`` is fedlease's own loop, and ``num_rounds`` and ``initial_arrays``
    come from the settings. Messages are ``query.hello``, ``train.task``, which also scores the received model,
    ``evaluate.score`` under sampling, ``evaluate.finish``, and ``query.sum`` for secure sums.

    Args:
        settings: settings of the run.
        out: run folder; an unfinished run in it is resumed.
        listeners: receive every event.
        hand_over: see :class:`~fedlease.server.transport.Channel`.
        fingerprint: fingerprint of all rows, if the server knows them; None derives one from the clients' cards.
        skipped: client -> reason, for clients without a node because their rows cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        listeners: Sequence[Listener] = (),
        *,
        hand_over: bool = False,
        fingerprint: str | None = None,
        skipped: Mapping[ClientId, str] | None = None,
    ) -> None:
        self.settings = settings
        self.out = out
        self.listeners = listeners
        self.hand_over = hand_over
        self.fingerprint = fingerprint
        self.skipped = dict(skipped or {})
        self.summaries: dict[str, dict[str, Any]] = {}

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 0,
        timeout: float = 0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Runs to the end; arguments other than ``grid`` are refused, since they are settings.

        Returns:
            The experts of the main method in ``arrays`` as ``experts.<e>.<name>``, and mean scores of its rounds.

        Raises:
            InputError: settings or nodes are wrong, or the folder has a run with other settings; nothing was trained.
            RunFailedError: there are too few nodes or usable updates; the same call resumes from the last complete
                round.
        """
        if initial_arrays is not None or num_rounds or timeout or train_config or evaluate_config or evaluate_fn:
            raise ConfigError(
                "start: it takes only the grid; rounds, deadline and everything else are settings (rounds, "
                "flower.deadline, ...)"
            )
        room = within_limits(f"the run in {self.out} stopped", "make room and run the same again", self.out)
        with run_lock(self.out), room:
            return self._start(grid)

    def _start(self, grid: Grid) -> Result:
        resumed = (self.out / "config.yaml").is_file()
        settings = resolve_machine(self.settings)
        if resumed:
            settings = resumed_settings(self.out, settings)
        done = finished(self.out, settings) if resumed else None
        if done is not None:
            self.summaries = contents_of(done)
            return self._result()
        if CENTRALISED in (settings.method, *settings.baselines):
            raise ConfigError("method: 'centralised' pools the rows of all clients, which are on other machines")
        torch.set_num_threads(settings.num_threads)
        loaded = load_run(settings, self.out if resumed else None)
        settings = loaded.settings
        known = read_clients(self.out) if resumed else {}
        run = read_environment(self.out).run if resumed else new_identity()
        connection = self._connected(grid, run, settings, fingerprint(loaded.base, loaded.tokenizer), known)
        heads = Heads(loaded, connection.cards)
        if not resumed:
            self._begin(settings, connection, heads, loaded)
        inputs = RunInputs(
            loaded=loaded,
            cards=connection.cards,
            warnings=(*one_label_notes(connection.cards.values()), *loaded.notes, *sum_notes(settings)),
            heads=heads,
            channel=lambda name, tell: self._channel(settings, connection, loaded),
            skipped=read_environment(self.out).skipped_clients,
        )
        self.summaries = contents_of(run_methods(self.out, inputs, self.listeners, resumed=resumed))
        return self._result()

    def _connected(
        self, grid: Grid, run: str, settings: Settings, base: str, known: dict[ClientId, ClientCard]
    ) -> Connection:
        flower = settings.flower
        # Flower's grid for simulations, in which nobody has a key
        simulated = self.hand_over or type(grid).__name__ == "InMemoryGrid"
        named = flower.client_keys if not simulated else None
        sent = settings.model_copy(update={"flower": flower.model_copy(update={"client_keys": None})})
        connection = Connection(
            grid,
            Envelope(run, __version__, sent.model_dump_json(), base),
            flower.deadline,
            flower.wait,
            flower.max_labels,
            min(settings.bounds.rows, MOST_ROWS),
            simulated=simulated,
            skip=settings.data.clients == "skip",
            lora=settings.lora,
            keys=None if named is None else clients_of(named, "flower.client_keys"),
            cards=dict(known),
        )
        connection.wait(flower.min_nodes, flower.wait)
        return connection

    def _begin(self, settings: Settings, connection: Connection, heads: Heads, loaded: Loaded) -> None:
        cards = dict(sorted(connection.cards.items()))
        check_fit(loaded, heads, cards, others=None)
        methods = {name: method.method for name, method in methods_of(settings, heads).items()}
        check_batches(loaded.resident, loaded.tokenizer, loaded.adapter, settings.model, methods, sorted(cards))
        prints = digest("".join(f"{card.id} {card.fingerprint} " for card in cards.values()).encode())
        rows_print, noted = self.fingerprint or prints, loaded.notes
        start_run(
            self.out,
            settings,
            cards,
            rows_print,
            noted,
            made=loaded.made,
            identity=connection.hello.run,
            # A node speaks only for itself: it must not exclude a client that takes part.
            skipped={**self.skipped, **{name: why for name, why in connection.unusable.items() if name not in cards}},
            base_files=loaded.base_files,
        )

    def _channel(self, settings: Settings, connection: Connection, loaded: Loaded) -> Channel:
        traffic, memories, task = Traffic(), Memories(), loaded.resident.task
        samples, filters = task.num_samples, make_filters(settings.filters, loaded.adapter.tensors)
        nodes, given = FlowerTransport(connection, traffic, samples), settings.privacy
        summed = with_sums(Filtered(nodes, filters, memories), nodes, settings, connection.cards)
        checked = Checked(
            summed, connection.cards, task, samples, private=given.epsilon is not None, summed=given.secure_sums
        )
        return Channel(checked, traffic, memories=memories, hand_over=self.hand_over)

    def _result(self) -> Result:
        saved = Checkpoint(self.out).load()
        assert saved is not None  # a finished run has one
        result = Result()
        for number, expert in enumerate(saved.state.experts):
            for name, tensor in expert.items():
                result.arrays[f"experts.{number}.{name}"] = Array(tensor.float().numpy())
        for record in read_rounds(self.out):
            if record.mean_score is not None:
                result.train_metrics_clientapp[record.step] = MetricRecord({"mean-score": record.mean_score})
        return result

    def _never(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for abstract methods of Flower's own loop, which :meth:`start` does not run."""

    summary = configure_train = aggregate_train = configure_evaluate = aggregate_evaluate = _never
