"""Loads a client's personalised model as an ordinary PEFT model."""

import functools
from pathlib import Path
from typing import Any, get_args

import torch
from peft import PeftModel
from torch import nn

import fedlease.peft_plugin  # noqa: F401  registers FEDLEASE with PEFT
from fedlease.config.choices import QUANTISATION_DEVICES
from fedlease.config.settings import Settings
from fedlease.config.tables import task_facts
from fedlease.core.adapters import check_whole
from fedlease.core.types import ANCHOR, ClientId, ClientModel
from fedlease.errors import ConfigError
from fedlease.models.base import load_tokenizer
from fedlease.peft_plugin.model import FedLeaseModel
from fedlease.peft_plugin.state import adapter_parameters, copy_into, head_parameters, peft_config_for, wrap
from fedlease.runs.open import autocast_of, base_of_run
from fedlease.storage.run_folder import read_settings
from fedlease.use.merged import in_own_unit, label_names
from fedlease.use.open_run import OpenRun

__all__ = ["load", "tokenizer"]


def load(
    run_folder: str | Path,
    client: ClientId | None = None,
    method: str | None = None,
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> PeftModel:
    """Loads the personalised model of one client in evaluation mode; its predictions are those that were scored.

    Labels are in ``model.config.id2label``. It is an ordinary PEFT model: ``save_pretrained`` writes an adapter that
    ``PeftModel.from_pretrained`` reads after ``import fedlease.peft_plugin``. With the adapter disabled, it predicts as
    the run's untrained model: the base, with the head's initial values. A regression model predicts numbers in the unit
    of the client's rows; if its head has no bias, it predicts (number - mean) / deviation, with the mean and deviation
    of its train rows from ``clients.json``.

    Args:
        run_folder: folder of a finished run; of a run in progress, whose last step is used; or of a node's own model.
        client: id of a client of the run, or of a newcomer; None if there is only one.
        method: a method of the run; None takes the main one.
        device: device of the computation; None takes the CPU, or the run's device if the base's quantisation does not
            work on a CPU.
        dtype: type of the frozen base and its matrix products, ``float32`` or ``bfloat16``; None takes the run's.
            Adapter and head are in float32; if the base is not, ``forward`` uses autocast.

    Raises:
        RunFolderError: it is no run folder, is damaged, or has no finished step; or the base model has changed since.
        ConfigError: the run has no such client or method, or several clients and none is named; or the device or the
            type is not available.
    """
    settings = read_settings(Path(run_folder))
    quantisation = settings.base.quantisation
    if device is None and (quantisation == "none" or "cpu" in QUANTISATION_DEVICES[quantisation]):
        device = "cpu"
    run = OpenRun(run_folder, method, device=device, dtype=_type_name(dtype))
    if client is None:
        if len(run.clients) != 1:
            raise ConfigError(f"client: name one, the run has {sorted(run.clients)}")
        (client,) = run.clients
    known = run.client(client)
    with run.fitting(client):
        model = run.model(client)
        check_whole(model)
        wrapped = _as_peft(run, in_own_unit(model, known.scale) or model, known.labels)
    autocast = autocast_of(run.settings)
    if autocast is not None:
        _compute_in(wrapped.get_base_model(), autocast)
    return wrapped


def _as_peft(run: OpenRun, model: ClientModel, labels: tuple[str, ...]) -> PeftModel:
    base = run.base
    run.resident.use_head(run.resident.head_modules(len(labels)))
    # This becomes the head of the disabled adapter; PEFT copies it for the trained one.
    copy_into(head_parameters(base.model, base.head_modules), run.loaded.head(labels).tensors)
    config: Any = base.model.config
    for key, value in label_names(labels, task_facts(run.settings.task).model.problem_type).items():
        setattr(config, key, value)
    peft_config = peft_config_for(
        model.spec,
        task_type=task_facts(run.settings.task).model.peft_type,
        modules_to_save=list(base.head_modules) or None,
    )
    wrapped = wrap(base.model, peft_config)
    heads = head_parameters(wrapped.get_base_model(), base.head_modules)
    tensors = dict(model.tensors)
    anchor = tensors.pop(ANCHOR, None)
    if isinstance(wrapped.base_model, FedLeaseModel):
        wrapped.base_model.set_anchor(anchor)
    copy_into({**adapter_parameters(wrapped), **heads}, tensors)
    wrapped.eval()
    return wrapped


def _compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Makes every forward pass of a model run under autocast, also after the model is moved or copied."""
    # Unlike a closure, a partial is copied together with its model.
    forward = functools.partial(_forward_in, model.forward, model, dtype)
    model.forward = functools.update_wrapper(forward, model.forward)


def _forward_in(forward: Any, model: nn.Module, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    with torch.autocast(next(model.parameters()).device.type, dtype=dtype):
        return forward(*args, **kwargs)


def _type_name(dtype: str | torch.dtype | None) -> str | None:
    known = get_args(Settings.model_fields["dtype"].annotation)
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if name is not None and name not in known:
        raise ConfigError(f"dtype: must be {' or '.join(known)}, received {dtype!r}")
    return name


def tokenizer(run_folder: str | Path) -> Any:
    """The tokenizer of a run's base model.

    Args:
        run_folder: see :func:`load`.

    Raises:
        RunFolderError: it is no run folder, or is damaged; or the tokenizer has changed since the run.
    """
    out = Path(run_folder)
    settings = read_settings(out)
    return load_tokenizer(base_of_run(out, settings, weights=False), settings.task)
