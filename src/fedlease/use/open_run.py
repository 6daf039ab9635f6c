"""A run folder opened for use, with its base model and every client's personalised model.

A folder that a Flower node writes for its own model is opened in the same way, as one with a single client.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fedlease.client.resident import ResidentModel
from fedlease.client.store import Private, is_elsewhere
from fedlease.config.choices import Quantisation
from fedlease.core.adapters import check_whole
from fedlease.core.types import ClientId, ClientModel
from fedlease.core.wording import printable
from fedlease.data.federation import UNSCALED, ClientCard, Row, Scale
from fedlease.errors import ConfigError, FedLeaseError, RunFolderError, limit_reached
from fedlease.methods.base import Method
from fedlease.methods.head import WithHead
from fedlease.methods.ranks import WithRanks
from fedlease.models.base import BaseModel
from fedlease.peft_plugin.folder import CONFIG, WEIGHTS, read_adapter
from fedlease.runs.building import build_method
from fedlease.runs.heads import Heads
from fedlease.runs.machine import usable_device
from fedlease.runs.open import Loaded, load_run
from fedlease.runs.threads import usable_threads
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.documents import parse_json
from fedlease.storage.newcomers import Newcomer, newcomer_model, read_newcomers
from fedlease.storage.run_files import MOST_WEIGHTS, RunFiles
from fedlease.storage.run_folder import (
    method_files,
    read_clients,
    read_settings,
)
from fedlease.storage.saved import Saved
from fedlease.storage.summary import read_summary
from fedlease.tasks.base import Task
from fedlease.tasks.encoded import Encoded
from fedlease.tasks.registry import make_task

__all__ = ["KnownClient", "OpenRun"]


@dataclass(frozen=True)
class KnownClient:
    """A client of a run.

    Attributes:
        id: its id.
        task: task of its rows.
        labels: its labels.
        pairs: whether its rows have a second text; None if the run folder does not say.
        newcomer: whether it was onboarded after the run.
        scale: mean and standard deviation of its numbers; its model predicts (number - mean) / deviation.
    """

    id: ClientId
    task: str
    labels: tuple[str, ...]
    pairs: bool | None
    newcomer: bool
    scale: Scale = UNSCALED


class OpenRun:
    """A run folder opened for use; base model and tokenizer are loaded when they are first needed.

    Args:
        folder: of a finished run; of a run in progress, whose last step is used; or of a node's own model.
        method: a method of the run; None takes the main one.
        device: of the computation; None takes the run's if this machine has it, else the CPU.
        dtype: of the base and its matrix products; None takes the run's.
        quantisation: of the base; None takes the run's.

    Attributes:
        out: the run folder.
        settings: of the run, with the requested dtype.
        method: name of the method whose models are used.
        clients: id -> client, including newcomers, sorted.
        saved: the method's last step; in a node's folder, its state is the client's model.

    Raises:
        RunFolderError: the folder has no run, a damaged one, or one without a finished step.
        ConfigError: the run does not have the method, or this machine does not have the device.
    """

    def __init__(
        self,
        folder: str | Path,
        method: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        quantisation: Quantisation | None = None,
    ) -> None:
        self.out = Path(folder)
        self.settings = read_settings(self.out)
        if quantisation is not None:
            base = self.settings.base.model_copy(update={"quantisation": quantisation})
            self.settings = self.settings.model_copy(update={"base": base})
        if dtype is not None:
            self.settings = self.settings.model_copy(update={"dtype": dtype})
        names = [self.settings.method, *self.settings.baselines]
        self.method = method or self.settings.method
        if self.method not in names:
            raise ConfigError(f"method: the run has {names}, received {method!r}")
        cards = read_clients(self.out)
        # A newcomer was placed with an expert of the main method, and is unknown to other methods.
        newcomers = read_newcomers(self.out) if self.method == self.settings.method else {}
        everyone: dict[ClientId, ClientCard | Newcomer] = {**cards, **newcomers}
        self.clients = {
            client: KnownClient(
                client, known.task, tuple(known.labels), known.pairs, client in newcomers, _scale(known.scale)
            )
            for client, known in sorted(everyone.items())
        }
        saved = self._own_model() or Checkpoint(method_files(self.out, self.settings, self.method).folder).load()
        if saved is None:
            raise RunFolderError(
                f"{self.out}: {self.method} has not completed a step yet, so there is no model to load"
            )
        self.saved = saved
        self.device = torch.device(usable_device(device) if device else self._device_of_run())

    def client(self, client: ClientId) -> KnownClient:
        """One client.

        Raises:
            ConfigError: the run does not have the client; the message lists its clients.
        """
        if client not in self.clients:
            raise ConfigError(f"client: the run has {sorted(self.clients)}, received {client!r}")
        return self.clients[client]

    @property
    def threads(self) -> int:
        """Number of CPU threads: as in the run, for the same bits, but at most those that this process may use."""
        return min(self.settings.num_threads, usable_threads())

    @cached_property
    def task(self) -> Task:
        """The learning task."""
        return make_task(self.settings)

    @cached_property
    def loaded(self) -> Loaded:
        """The base model with its tokenizer.

        Raises:
            RunFolderError: it is no longer the one that the run was trained on.
        """
        return load_run(self.settings.model_copy(update={"device": str(self.device)}), self.out)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the base model."""
        return self.loaded.tokenizer

    @property
    def base(self) -> BaseModel:
        """The base model inside :attr:`resident`."""
        return self.loaded.base

    @property
    def resident(self) -> ResidentModel:
        """The base model, into which :meth:`load` loads one client's adapter and head at a time."""
        return self.loaded.resident

    @cached_property
    def bare_method(self) -> Method:
        """The method without heads."""
        return build_method(self.settings, self.method, {}).method

    @cached_property
    def policy(self) -> WithHead:
        """The method under the run's head policy."""
        members = {name: client for name, client in self.clients.items() if not client.newcomer}
        return build_method(self.settings, self.method, Heads(self.loaded, members))

    def model(self, client: ClientId) -> ClientModel:
        """A client's personalised model with its head, as it was scored.

        Raises:
            ConfigError: the run does not have the client.
            RunFolderError: a newcomer's files are damaged, or a part of the client's model is on its own machine.
        """
        if self.client(client).newcomer:
            return newcomer_model(self.out, client)
        if is_elsewhere(self.saved.private.get(client, {})):
            raise RunFolderError(
                f"{self.out}: client {client!r} has a part of its model (such as its head) on its own machine, so it "
                "cannot be loaded here"
            )
        if isinstance(self.saved.state, ClientModel):
            return self.saved.state
        model = self.received(client)
        with self.fitting(client):
            private = Private(self.saved.private.get(client, {}))
            return replace(model, tensors=private.overlay(model))

    def received(self, client: ClientId, rank: int | None = None) -> ClientModel:
        """A client's model as the server has it, with its head, without private tensors, at its own rank or another.

        Among candidates, it takes the one with which the client was scored, since train rows are not available here.
        """
        policy = self.policy
        if rank is not None and isinstance(policy.method, WithRanks):
            policy = replace(policy, method=replace(policy.method, default=rank, ranks={}))
        with self.fitting(client):
            model: ClientModel = policy.model(self.saved.state, client)
        chosen = self._choice(client) if model.candidates else None
        if chosen is not None and chosen >= len(model.candidates):
            raise RunFolderError(f"{self.out}: client {client!r} took candidate {chosen} of {len(model.candidates)}")
        tensors = model.tensors if chosen is None else {**model.tensors, **model.candidates[chosen]}
        return replace(model, tensors=tensors, candidates=())

    def expert_of(self, client: ClientId) -> int | None:
        """The number of the expert, group or candidate whose adapter is the client's own.

        None for a method without these, or whose adapters are summed; for a client that has none yet; and for a
        newcomer, which has its own copy.
        """
        if self.client(client).newcomer or isinstance(self.saved.state, ClientModel):
            return None
        with self.fitting(client):
            state = self.saved.state.inner
            model = self.bare_method.model(state, client)
            if not model.candidates:
                return None if model.spec.mixer == "sum" else state.assignment.get(client)
            group = self.bare_method.group(state, client)  # below 0 before its first choice
        chosen = self._choice(client)
        return chosen if chosen is not None else group if group >= 0 else None

    def _choice(self, client: ClientId) -> int | None:
        """The candidate with which the client was scored at the end; None until then."""
        summary = read_summary(method_files(self.out, self.settings, self.method))
        if summary is None or client not in summary.per_client:
            return None
        chosen = summary.per_client[client].choice
        if chosen is None:
            raise RunFolderError(f"{self.out}: its summary does not state which candidate client {client!r} took")
        return chosen

    def load(self, client: ClientId, model: ClientModel | None = None) -> KnownClient:
        """Loads a client's model, or another model with its labels, into ``resident``."""
        known = self.client(client)
        if model is None:
            model = self.model(client)
        with self.fitting(client):
            check_whole(model)
            self.resident.load(model, len(known.labels))
        return known

    def encode(self, rows: Sequence[Row], scale: Scale = UNSCALED) -> Encoded:
        """Tokenises rows as in the run; ``scale`` is that of the rows' client."""
        return self.task.encode(rows, self.tokenizer, scale)

    @contextmanager
    def fitting(self, client: ClientId) -> Iterator[None]:
        """Within the context, errors from a model whose parts do not fit together are reported as a damaged folder."""
        try:
            yield
        except FedLeaseError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if limit_reached(error):
                raise
            reason = printable(str(error), longest=200)
            raise RunFolderError(
                f"{self.out}: the model of client {client!r} is damaged: {type(error).__name__} {reason}"
            ) from error

    def _own_model(self) -> Saved | None:
        if not (self.out / CONFIG).is_file():
            return None
        files = RunFiles(self.out)
        parse_json(files.read(CONFIG), self.out / CONFIG)
        files.read(WEIGHTS, MOST_WEIGHTS)
        try:
            return Saved(self.method, 0, read_adapter(self.out), {}, finished=True)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
            raise RunFolderError(f"{self.out}: the model in it is damaged: {error}") from error

    def _device_of_run(self) -> str:
        try:
            return usable_device(self.settings.device)
        except ConfigError:
            return "cpu"


def _scale(stated: Sequence[float] | None) -> Scale:
    return UNSCALED if stated is None else (stated[0], stated[1])
