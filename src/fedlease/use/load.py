"""A client's personalised model as an ordinary PEFT model."""

from pathlib import Path
from typing import Any

from peft import PeftModel

import fedlease.peft_plugin  # noqa: F401  registers FEDLEASE with PEFT
from fedlease.core.types import ANCHOR, ClientId, ClientModel
from fedlease.model_sources import locate
from fedlease.models import BaseModel, load_tokenizer, new_head_modules
from fedlease.peft_plugin.model import FedLeaseModel
from fedlease.peft_plugin.state import adapter_parameters, copy_into, head_parameters, peft_config_for, wrap
from fedlease.reporting.run_folder import read_settings
from fedlease.use.open_run import OpenRun

__all__ = ["load", "tokenizer"]


def load(run_folder: str | Path, client: ClientId | None = None, method: str | None = None) -> PeftModel:
    """The personalised model of one client, in evaluation mode on the CPU.

    Labels are in ``model.config.id2label``. It is an ordinary PEFT model: ``save_pretrained`` writes an adapter that
    ``PeftModel.from_pretrained`` reads after ``import fedlease.peft_plugin``.

    Args:
        run_folder: of a finished run, or of one that is still going: then its last step is taken; or what a Flower
            node wrote of its own model.
        client: id of a client of the run, or of one onboarded since; None where there is only one.
        method: one of the run's methods; None takes the main one.

    Raises:
        RunFolderError: no run folder, damaged, or before its first step.
        ConfigError: the run has no such client or method, or several clients and none is named.
    """
    run = OpenRun(run_folder, method, device="cpu")
    client = run.only_client() if client is None else client
    labels = run.client(client).labels
    model = run.model(client)
    return _as_peft(run.new_base(), model, labels, run.task.peft_type)


def _as_peft(base: BaseModel, model: ClientModel, labels: tuple[str, ...], peft_type: str) -> PeftModel:
    for name, module in new_head_modules(base, len(labels)).items():
        base.model.set_submodule(name, module)
    config: Any = base.model.config
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    peft_config = peft_config_for(model.spec, task_type=peft_type, modules_to_save=list(base.head_modules) or None)
    wrapped = wrap(base.model, peft_config)
    heads = head_parameters(wrapped.get_base_model(), base.head_modules)
    tensors = dict(model.tensors)
    anchor = tensors.pop(ANCHOR, None)
    if isinstance(wrapped.base_model, FedLeaseModel):
        wrapped.base_model.set_anchor(anchor)
    copy_into({**adapter_parameters(wrapped), **heads}, tensors)
    wrapped.eval()
    return wrapped


def tokenizer(run_folder: str | Path) -> Any:
    """The tokenizer of a run's base model.

    Args:
        run_folder: as of :func:`load`.

    Raises:
        RunFolderError: no run folder, or damaged.
    """
    out = Path(run_folder)
    settings = read_settings(out)
    source = locate(settings.model, settings.revision, out / "base", settings.seed, settings.task)
    return load_tokenizer(source, settings.task)
