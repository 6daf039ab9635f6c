"""The start-up that all commands share: from settings or a run folder to rows, base model, adapter and heads."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fedlease.client.batch_check import check_batches
from fedlease.client.resident import ResidentModel
from fedlease.client.training import Optimiser
from fedlease.client.worker import Client
from fedlease.config.settings import Settings
from fedlease.core.adapters import initial_adapter
from fedlease.core.codec import digest
from fedlease.core.types import ClientId, ClientModel, Tensors
from fedlease.core.wording import listed
from fedlease.data.faults import Faults
from fedlease.data.federation import UNSCALED, ClientData, Federation
from fedlease.errors import DataError
from fedlease.methods.head import Head
from fedlease.models.base import BaseModel, initial_head, load_base, load_tokenizer
from fedlease.models.checks import longest_input
from fedlease.models.fingerprints import check_files, file_prints
from fedlease.models.first_token import with_first_token
from fedlease.models.limits import fitted_lengths
from fedlease.models.sources import ModelSource, locate
from fedlease.models.targets import target_shapes
from fedlease.runs.building import methods_of
from fedlease.runs.machine import usable_device
from fedlease.runs.rows import rows_of, rows_of_run
from fedlease.server.participation import Participation
from fedlease.server.stopping import EarlyStopping
from fedlease.storage.environment import read_environment
from fedlease.storage.run_files import RunFiles
from fedlease.tasks.encoded import Encoded
from fedlease.tasks.registry import make_task

__all__ = [
    "Loaded",
    "Prepared",
    "autocast_of",
    "base_of_run",
    "load_run",
    "optimiser_of",
    "participation_of",
    "prepare",
    "prepared",
    "stopping_of",
]


@dataclass(frozen=True)
class Loaded:
    """A base model that is ready for the clients of a run; made by :func:`load_run`.

    Attributes:
        settings: with the model's revision resolved, and lengths that the model can read.
        source: of the model; if the base was made for a new run, its folder no longer exists.
        base: the model.
        tokenizer: of the model.
        device: of the computation.
        shapes: adapted module -> (in features, out features).
        made: files of a base that was made for this run, by name; a new run stores them in its folder.
        notes: sentences about settings of a preset that were adjusted to the model, and about its weights.
        chosen: setting that was ``auto`` -> its value and the reason.
    """

    settings: Settings
    source: ModelSource
    base: BaseModel
    tokenizer: Any
    device: torch.device
    shapes: Mapping[str, tuple[int, int]]
    made: Mapping[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def base_files(self) -> Mapping[str, str]:
        """Name -> SHA-256, for every file from which the base was read."""
        return {name: digest(blob) for name, blob in self.made.items()} or file_prints(self.source)

    @cached_property
    def resident(self) -> ResidentModel:
        """The base model, into which one client's adapter and head at a time are loaded."""
        settings, task = self.settings, make_task(self.settings)
        autocast = autocast_of(settings)
        exact, skips = settings.deterministic, settings.base.skip_unread is True
        return ResidentModel(self.base, self.device, autocast, task, deterministic=exact, skip_unread=skips)

    @cached_property
    def adapter(self) -> ClientModel:
        """The adapter that all clients start from, at the largest rank."""
        lora, seed = self.settings.lora, self.settings.seed
        return initial_adapter(self.shapes, r=lora.largest, alpha=lora.alpha, dropout=lora.dropout, seed=seed)

    def with_settings(self, chosen: Mapping[str, str], **changes: Any) -> "Loaded":
        """A copy with some settings changed that do not affect the model; ``chosen`` has the reasons."""
        settings = self.settings.model_copy(update=changes)
        found = replace(self, settings=settings, chosen={**self.chosen, **chosen})
        # The computed properties are kept: a second resident model would have to make every head again.
        made = ("base_files", "resident", "adapter")
        vars(found).update({name: value for name, value in vars(self).items() if name in made})
        return found

    def head(self, labels: tuple[str, ...]) -> Head:
        """The initial head of a client with these labels; heads with equally many labels share their tensors."""
        count = len(labels)
        if count not in self._initial:
            self._initial[count] = initial_head(self.resident.head_modules(count), self.settings.seed)
        return Head(labels, self._initial[count])

    @cached_property
    def _initial(self) -> dict[int, Tensors]:
        return {}

    def client(self, data: ClientData) -> Client:
        """A client with its rows tokenised.

        Raises:
            DataError: the model cannot take some rows.
        """
        encoded, faults = list[Encoded](), Faults()
        chosen_by = (data.valid,) if self.settings.early_stopping.patience is not None and data.valid else ()
        for rows in (data.train, data.test, *chosen_by):
            try:
                encoded.append(self.resident.task.encode(rows, self.tokenizer, data.scale or UNSCALED))
            except DataError as error:
                faults.take(error)
        faults.check()
        return Client(data, *encoded)


@dataclass(frozen=True)
class Prepared:
    """The inputs of a run's first step.

    Attributes:
        loaded: settings, base model and the adapter that all clients start from.
        federation: the rows.
        clients: client -> its rows, tokenised.
        heads: client -> initial head.
        warnings: about the data, the base model and the tokenizer, one sentence each.
    """

    loaded: Loaded
    federation: Federation
    clients: Mapping[ClientId, Client]
    heads: Mapping[ClientId, Head]
    warnings: tuple[str, ...]


def prepare(
    settings: Settings, out: Path | None = None, data: object = None, rows: Federation | None = None
) -> Prepared:
    """Reads the rows, loads the model, tokenises every row once, and draws the initial adapter and heads.

    Args:
        settings: with threads and device resolved.
        out: folder of a run that is resumed; None for a new run.
        data: rows in memory, as for :func:`fedlease.data.load.load_federation`.
        rows: of a new run, if they have been read already.

    Raises:
        ModelError: the model cannot be loaded, or the adapter does not fit it.
        ConfigError: rows may be longer than the model can read, or this machine does not have the device.
        DataError: some rows cannot be read, or the model cannot take them.
        RunFolderError: the rows or the base model are no longer those with which the run started.
    """
    if rows is None:
        rows = rows_of(settings, data) if out is None else rows_of_run(out, settings, data)
    return prepared(rows, load_run(settings, out))


def prepared(federation: Federation, loaded: Loaded) -> Prepared:
    """Tokenises every row once, and draws the initial adapter and heads.

    Raises:
        ModelError: the adapter does not fit the model.
        DataError: the model cannot take some rows.
    """
    settings = loaded.settings
    torch.set_num_threads(settings.num_threads)
    clients, faults = dict[ClientId, Client](), Faults()
    for rows in federation:
        try:
            clients[rows.id] = loaded.client(rows)
        except DataError as error:
            faults.take(error)
    faults.check()
    heads = {rows.id: loaded.head(rows.labels) for rows in federation}
    methods = {name: method.method for name, method in methods_of(settings, heads).items()}
    check_batches(loaded.resident, loaded.tokenizer, loaded.adapter, settings.model, methods, sorted(heads))
    cut = loaded.resident.task.warnings([rows for client in clients.values() for rows in (client.train, client.test)])
    blind = _without_valid(federation) if settings.early_stopping.patience is not None else ()
    return Prepared(loaded, federation, clients, heads, (*federation.warnings, *loaded.notes, *cut, *blind))


def _without_valid(federation: Federation) -> list[str]:
    without = [rows.id for rows in federation if not rows.valid]
    if not without or len(without) == len(federation):
        return []
    return [f"early stopping ignores clients without validation rows: {listed(without)}"]


def load_run(settings: Settings, out: Path | None = None) -> Loaded:
    """Loads the base model of a run.

    Args:
        settings: with the device resolved.
        out: folder of a run whose base is loaded; None for a new run. A base that is made for a new run is the same
            for the same seed.

    Raises:
        ModelError: it cannot be loaded, the adapter does not fit it, or its head reads tokens that should be skipped.
        ConfigError: rows may be longer than it can read, or this machine does not have the device.
        RunFolderError: it is no longer the model that the run was trained on.
    """
    device = usable_device(settings.device)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "base"
        source = _located(settings, made) if out is None else base_of_run(out, settings)
        tokenizer = load_tokenizer(source, settings.task)
        base = load_base(
            source,
            dtype=settings.dtype,
            dropout=settings.train.base_dropout,
            tokenizer=tokenizer,
            task=settings.task,
            quantisation=settings.base.quantisation,
            checkpointing=settings.train.gradient_checkpointing,
            device=device,
        )
        files = {path.name: path.read_bytes() for path in sorted(made.glob("*"))}
    if base.revision is not None:
        settings = settings.model_copy(update={"revision": base.revision})
        source = replace(source, revision=base.revision)
    settings, notes = fitted_lengths(settings, longest_input(base.model, tokenizer))
    lora = settings.lora
    shapes = target_shapes(base, lora.target_modules, lora.r, lora.last_layers)
    settings, chosen = with_first_token(settings, base.model, shapes)
    notes = (*notes, *base.warnings)
    return Loaded(settings, source, base, tokenizer, torch.device(device), shapes, files, notes, chosen)


def base_of_run(out: Path, settings: Settings, *, weights: bool = True) -> ModelSource:
    """Finds the base model of a run and compares it with the one that the run was trained on.

    Args:
        out: run folder.
        settings: of the run.
        weights: whether to compare weights too, besides configuration and tokenizer; a base in the run folder is always
            compared completely.

    Raises:
        RunFolderError: it has changed, or the run folder is damaged.
        ModelError: it cannot be found.
    """
    inside = RunFiles(out).digests("base")
    source = _located(settings, out / "base")
    check_files(out, source, read_environment(out).base_files, weights=weights, found=inside)
    return source


def _located(settings: Settings, made: Path) -> ModelSource:
    return locate(settings.model, settings.revision, made, settings.seed, settings.task)


def autocast_of(settings: Settings) -> torch.dtype | None:
    """The dtype of matrix products if the base is not float32, else None."""
    return torch.bfloat16 if settings.dtype == "bfloat16" else None


def participation_of(settings: Settings) -> Participation:
    """The rule by which clients take part in rounds."""
    score_rounds = make_task(settings).score_rounds
    return Participation(settings.clients_per_round, settings.min_clients, settings.eval_every, score_rounds)


def stopping_of(settings: Settings) -> EarlyStopping:
    """The rule that may end a method before its last round."""
    given = settings.early_stopping
    return EarlyStopping(given.patience, given.min_delta, given.metric)


def optimiser_of(settings: Settings) -> Optimiser:
    """The settings of local training."""
    return Optimiser(
        lr=settings.train.lr,
        weight_decay=settings.train.weight_decay,
        batch_size=settings.train.batch_size,
        clip_norm=settings.train.clip_norm,
        threads=settings.num_threads,
        seed=settings.seed,
        lr_schedule=settings.train.lr_schedule,
    )
