"""What a run needs before its first step: rows tokenised, model, adapter and heads in place."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from fedlease.core.types import Budget, ClientId, ClientModel
from fedlease.data.faults import Faults
from fedlease.data.federation import ClientData, Federation
from fedlease.errors import DataError
from fedlease.methods.base import Method
from fedlease.methods.head import Head, with_head
from fedlease.methods.registry import make_method
from fedlease.models.base import BaseModel, initial_head, load_base, load_tokenizer, target_shapes
from fedlease.models.checks import longest_input
from fedlease.models.fingerprints import file_prints
from fedlease.models.limits import fitted_lengths
from fedlease.models.padding import settle_model
from fedlease.models.sources import ModelSource, locate
from fedlease.runs.machine import usable_device
from fedlease.server.participation import Participation
from fedlease.tasks.base import Encoded
from fedlease.tasks.registry import make_task

__all__ = [
    "Loaded",
    "Prepared",
    "adapter_of",
    "autocast_of",
    "base_of",
    "build_method",
    "encoded",
    "head_of",
    "load_resident",
    "methods_of",
    "optimiser_of",
    "participation_of",
    "prepare",
    "resident_of",
]


@dataclass(frozen=True)
class Prepared:
    """What a run needs before its first step.

    Attributes:
        settings: with threads, device and revision resolved.
        federation: the rows.
        clients: tokenised.
        resident: the base model.
        adapter: the common start.
        heads: client -> initial head.
        warnings: of the data, of the base model, and of the tokeniser.
        loaded: what the base model came with.
    """

    settings: Settings
    federation: Federation
    clients: Mapping[ClientId, Client]
    resident: ResidentModel
    adapter: ClientModel
    heads: Mapping[ClientId, Head]
    warnings: tuple[str, ...]
    loaded: "Loaded"


@dataclass(frozen=True)
class Loaded:
    """A base model ready for clients.

    Attributes:
        settings: with the model's revision resolved, and lengths that it can read.
        base: the model.
        tokenizer: the model's.
        resident: the base with adapters to be swapped.
        source: of the model; the folder of one that was made on the way is gone.
        made: SHA-256 of the files of such a model, by name.
        notes: what of a preset gave way to the model, and what is worth knowing of its weights.
    """

    settings: Settings
    base: BaseModel
    tokenizer: Any
    resident: ResidentModel
    source: ModelSource
    made: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def base_files(self) -> Mapping[str, str]:
        """SHA-256 of every file that the base was read from, by name."""
        return file_prints(self.source) if self.made is None else self.made


def load_resident(settings: Settings, source: ModelSource | None = None) -> Loaded:
    """Loads the base model of a run.

    Args:
        settings: with threads and device resolved.
        source: of the model; None locates it. A model that is made on the way is the same for the same seed.

    Raises:
        ModelError: it cannot be had.
        ConfigError: rows may be longer than it can read, or the device is not one of this machine.
    """
    torch.set_num_threads(settings.threads or 1)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "base"
        if source is None:
            source = locate(settings.model, settings.revision, made, settings.seed, settings.task)
        device = usable_device(settings.device)
        tokenizer = load_tokenizer(source, settings.task)
        base = base_of(settings, source, tokenizer, device)
        prints = file_prints(source) if made.is_dir() else None
    if base.revision is not None:
        settings = settings.model_copy(update={"revision": base.revision})
        source = replace(source, revision=base.revision)
    settings, notes = fitted_lengths(settings, longest_input(base.model, tokenizer))
    resident = resident_of(settings, base, torch.device(device))
    return Loaded(settings, base, tokenizer, resident, source, prints, (*notes, *base.warnings))


def resident_of(settings: Settings, base: BaseModel, device: torch.device) -> ResidentModel:
    """A base model with the run's task, type and wish for the same bits."""
    return ResidentModel(base, device, autocast_of(settings), make_task(settings), deterministic=settings.deterministic)


def autocast_of(settings: Settings) -> torch.dtype | None:
    """The type of the products of a base that is not float32."""
    return torch.bfloat16 if settings.dtype == "bfloat16" else None


def encoded(loaded: Loaded, data: ClientData) -> Client:
    """A client's rows, tokenised.

    Raises:
        DataError: rows that the model cannot take.
    """
    task, tokenizer = loaded.resident.task, loaded.tokenizer
    parts, faults = list[Encoded](), list[str]()
    for rows in (data.train, data.test):
        try:
            parts.append(task.encode(rows, tokenizer))
        except DataError as error:
            faults.extend(error.faults)
    if faults:
        raise DataError(faults)
    return Client(data, *parts)


def adapter_of(loaded: Loaded) -> ClientModel:
    """The adapter that all clients start from.

    Raises:
        ModelError: it does not fit the base model.
    """
    lora = loaded.settings.lora
    shapes = target_shapes(loaded.base, lora.target_modules, lora.r)
    return initial_adapter(shapes, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, seed=loaded.settings.seed)


def head_of(loaded: Loaded, labels: tuple[str, ...]) -> Head:
    """The head that a client with these labels starts from."""
    return Head(labels, initial_head(loaded.resident.head_modules(len(labels)), loaded.settings.seed))


def prepare(settings: Settings, federation: Federation, source: ModelSource) -> Prepared:
    """Loads the model, tokenises every row once, draws the initial adapter and heads.

    Raises:
        ModelError: the model cannot be had, or the adapter does not fit it.
        ConfigError: rows may be longer than the model can read.
        DataError: rows that the model cannot take.
    """
    loaded = load_resident(settings, source)
    adapter = adapter_of(loaded)
    clients, faults = dict[ClientId, Client](), Faults()
    for data in federation:
        try:
            clients[data.id] = encoded(loaded, data)
        except DataError as error:
            for fault in error.faults:
                place, _, rule = fault.partition(": ")
                path, _, line = place.rpartition(", ")
                faults.add(fault, kind=rule, place=path or place, line=line)
    faults.check()
    heads = {data.id: head_of(loaded, data.labels) for data in federation}
    check_batches(
        loaded.resident, loaded.tokenizer, adapter, settings.model, methods_of(settings, heads), sorted(heads)
    )
    task = loaded.resident.task
    cut = task.warnings([rows for client in clients.values() for rows in (client.train, client.test)])
    warnings = (*federation.warnings, *loaded.notes, *cut)
    return Prepared(loaded.settings, federation, clients, loaded.resident, adapter, heads, warnings, loaded)


def base_of(settings: Settings, source: ModelSource, tokenizer: Any, device: str) -> BaseModel:
    """The base model as the settings want it.

    Raises:
        ModelError: it cannot be had, or is of another kind than the task needs.
    """
    base = load_base(
        source,
        dtype=settings.dtype,
        dropout=settings.train.base_dropout,
        pad_token_id=tokenizer.pad_token_id,
        tokenizer=tokenizer,
        task=settings.task,
        quantisation=settings.base.quantisation,
        checkpointing=settings.train.gradient_checkpointing,
        device=device,
    )
    settle_model(base.model, tokenizer)
    return base


def build_method(settings: Settings, name: str, heads: Mapping[ClientId, Head]) -> Method:
    """A method under the budget, weighting and head policy of the settings."""
    budget = Budget(settings.warmup.epochs, settings.rounds, settings.train.local_epochs)
    parameters = {
        "max_experts": settings.max_experts,
        "min_silhouette": settings.min_silhouette,
        "linkage": settings.linkage,
        "weights": settings.weights,
        **dict(settings.fedlease),
        **dict(settings.ifca),
        **dict(settings.feddpa),
        **dict(settings.fedtreelora),
    }
    return with_head(make_method(name, budget, parameters), settings.head, heads, settings.weights)


def methods_of(settings: Settings, heads: Mapping[ClientId, Head]) -> dict[str, Method]:
    """The method of a run and its baselines."""
    return {name: build_method(settings, name, heads) for name in (settings.method, *settings.baselines)}


def participation_of(settings: Settings) -> Participation:
    """Who is asked each round."""
    score_rounds = settings.task != "generation" or settings.generation.score_rounds
    return Participation(settings.clients_per_round, settings.min_clients, settings.eval_every, score_rounds)


def optimiser_of(settings: Settings) -> Optimiser:
    """The training settings as the local step takes them."""
    return Optimiser(
        lr=settings.train.lr,
        weight_decay=settings.train.weight_decay,
        batch_size=settings.train.batch_size,
        clip_norm=settings.train.clip_norm,
        threads=settings.threads or 1,
        seed=settings.seed,
    )
