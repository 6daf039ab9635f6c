"""What the messages of one run share in one process of a node: the base model, and rows that are tokenised."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError

from fedlease.client.cache import WorkCache
from fedlease.client.worker import Client
from fedlease.config.faults import sentences
from fedlease.config.settings import Settings
from fedlease.data.federation import ClientData
from fedlease.errors import ConfigError
from fedlease.models.fingerprints import fingerprint
from fedlease.runs.open import Loaded, load_run

__all__ = ["Site", "settings_from"]


@dataclass
class Site:
    """What messages of one run share in one process: the base model, and the rows of its clients, tokenised.

    Attributes:
        loaded: settings and base model.
        fingerprint: of the base model and its tokenizer.
        clients: id -> rows.
        cache: scores of the untrained model.
    """

    loaded: Loaded
    fingerprint: str
    clients: dict[str, Client] = field(default_factory=dict)
    cache: WorkCache = field(default_factory=WorkCache)

    @classmethod
    def of(cls, settings: Settings, overrides: Mapping[str, Any]) -> "Site":
        """Loads the base model.

        Args:
            settings: of the run.
            overrides: ``model``, ``device`` and ``threads`` where the node's are others than the server's.

        Raises:
            InputError: an override is no such setting's value, the model cannot be had, or the device is not one of
                this machine.
        """
        try:
            own = Settings.model_validate({**settings.model_dump(), **overrides})
        except ValidationError as error:
            raise ConfigError([f"node-config: {fault}" for fault in sentences(error, Settings)]) from error
        torch.set_num_threads(own.threads or 1)
        loaded = load_run(own)
        return cls(loaded, fingerprint(loaded.base, loaded.tokenizer))

    def client(self, data: ClientData) -> Client:
        """The client's rows, tokenised when first asked for."""
        if data.id not in self.clients or self.clients[data.id].data != data:
            self.clients[data.id] = self.loaded.client(data)
            self.cache = WorkCache()
        return self.clients[data.id]


def settings_from(text: str) -> Settings:
    """The settings in a message.

    Raises:
        ConfigError: they are not settings of this version.
    """
    try:
        return Settings.model_validate_json(text)
    except ValueError as error:
        faults = sentences(error, Settings) if isinstance(error, ValidationError) else [str(error)]
        raise ConfigError([f"the server's settings are not understood: {fault}" for fault in faults]) from error
