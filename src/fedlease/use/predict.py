"""A finished run's models: the personalised model of a client, as it was evaluated."""

from pathlib import Path
from typing import Any

from peft import PeftModel

import fedlease.peft_plugin  # noqa: F401  registers FEDLEASE with PEFT
from fedlease.core.types import ClientId
from fedlease.engines.checkpoint import Checkpoint
from fedlease.engines.client_store import ClientStore
from fedlease.errors import ConfigError, RunFolderError
from fedlease.methods.head import Head
from fedlease.models import initial_head, load_base, load_tokenizer, locate, new_head_modules
from fedlease.peft_plugin.state import adapter_parameters, copy_into, head_parameters, peft_config_for, wrap
from fedlease.prepare import build_method
from fedlease.reporting.run_folder import method_folder, read_clients, read_settings

__all__ = ["load", "tokenizer"]


def load(run_folder: str | Path, client: ClientId, method: str | None = None) -> PeftModel:
    """The personalised model of one client, in evaluation mode on the CPU.

    Labels are in ``model.config.id2label``. It is an ordinary PEFT model: ``save_pretrained`` writes an adapter that
    ``PeftModel.from_pretrained`` reads after ``import fedlease.peft_plugin``.

    Args:
        run_folder: of a finished run, or of one that is still going: then its last step is taken.
        client: id of a client of the run.
        method: one of the run's methods; None takes the main one.

    Raises:
        RunFolderError: no run folder, damaged, or before its first step.
        ConfigError: the run has no such client or method.
    """
    out = Path(run_folder)
    settings = read_settings(out)
    clients = read_clients(out)
    name = method or settings.method
    if name not in (settings.method, *settings.baselines):
        raise ConfigError(f"method: the run has {[settings.method, *settings.baselines]}, received {name!r}")
    if client not in clients:
        raise ConfigError(f"client: the run has {sorted(clients)}, received {client!r}")
    saved = Checkpoint(method_folder(out, settings, name)).load()
    if saved is None:
        raise RunFolderError(f"{out}: {name} has not completed a step yet, there is nothing to load")

    source = locate(settings.model, settings.revision, out / "base", settings.seed)
    padding = load_tokenizer(source).pad_token_id
    base = load_base(source, dtype=settings.dtype, dropout=settings.train.base_dropout, pad_token_id=padding)
    labels = {c: tuple(str(label) for label in entry["labels"]) for c, entry in clients.items()}
    modules = new_head_modules(base, len(labels[client]))
    head = Head(labels[client], initial_head(modules, settings.seed))
    # Only this client's head is looked at; the others stand for their label lists.
    heads = {c: head if c == client else Head(labels[c], {}) for c in labels}
    model = build_method(settings, name, heads).model(saved.state, client)
    store = ClientStore({c: dict(slots) for c, slots in saved.private.items()})
    tensors = store.overlay(client, model.spec, model.tensors)

    for module_name, module in modules.items():
        base.model.set_submodule(module_name, module)
    config: Any = base.model.config
    config.id2label = dict(enumerate(labels[client]))
    config.label2id = {label: i for i, label in enumerate(labels[client])}
    peft_config = peft_config_for(model.spec, task_type="SEQ_CLS", modules_to_save=list(base.head_modules))
    wrapped = wrap(base.model, peft_config)
    copy_into({**adapter_parameters(wrapped), **head_parameters(wrapped.get_base_model(), base.head_modules)}, tensors)
    wrapped.eval()
    return wrapped


def tokenizer(run_folder: str | Path) -> Any:
    """The tokenizer of a run's base model.

    Raises:
        RunFolderError: no run folder, or damaged.
    """
    out = Path(run_folder)
    settings = read_settings(out)
    return load_tokenizer(locate(settings.model, settings.revision, out / "base", settings.seed))
