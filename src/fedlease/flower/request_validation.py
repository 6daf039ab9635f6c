"""What the server says, looked at whole by a node before any of it is used.

The form of a message is checked first, then the node's policy decides, then tensors are compared with the node's own
base model. Faults are sentences; an empty one means that there is none.
"""

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any, ParamSpec, get_args

import torch
from torch import Tensor, nn

from fedlease.client.messages import Finish, Score, Train
from fedlease.core.aggregate import MAX_VALUE
from fedlease.core.routing import num_slots
from fedlease.core.types import HEAD, AdapterSpec, ClientModel, ClientTask, Mixer, Stage, TensorName
from fedlease.flower.bounds import LONG, is_count, is_number, is_plain, shown
from fedlease.flower.messages import Envelope, Hello
from fedlease.methods.registry import PHASES

__all__ = ["form_fault", "model_fault", "task_fault"]

MOST_MODULES = 10_000
MOST_NUMBER = 2**62

P = ParamSpec("P")


def _guarded(check: Callable[P, str]) -> Callable[P, str]:
    """A value whose very look fails is a fault, too."""

    @wraps(check)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return shown(check(*args, **kwargs))
        except Exception as error:
            return f"the message is malformed: {type(error).__name__}"

    return guarded


@_guarded
def form_fault(message: Any) -> str:
    """Why a message is not of the form that a server's has."""
    if not isinstance(message, Hello | Envelope):
        return f"a node is not asked for a {type(message).__name__}"
    if not isinstance(message.settings, str):
        return "the message holds no settings"
    texts = (message.version, message.model) if isinstance(message, Hello) else (message.base, message.request.method)
    if not all(is_plain(text) for text in (message.run, *texts)):
        return f"its names must be texts of one line and at most {LONG} characters"
    return "" if isinstance(message, Hello) else _request_form(message.request)


def _request_form(request: Any) -> str:
    if request.accepted is not None and not is_count(request.accepted, 0, MOST_NUMBER):
        return f"accepted must be a step or none, received {shown(request.accepted)}"
    if not isinstance(request.keeps, bool):
        return f"keeps must be true or false, received {shown(request.keeps)}"
    if isinstance(request, Train):
        if not is_count(request.step, 0, MOST_NUMBER):
            return f"step must be a whole number, 0 or more, received {shown(request.step)}"
        return _task_form(request.task)
    if isinstance(request, Finish):
        if not isinstance(request.hand_over, bool):
            return f"hand_over must be true or false, received {shown(request.hand_over)}"
        return _model_form(request.model) or _model_form(request.untrained)
    if isinstance(request, Score):
        return _model_form(request.model)
    return f"a node is not asked for a {type(request).__name__}"


def _task_form(task: Any) -> str:
    if not isinstance(task, ClientTask):
        return f"its task is a {type(task).__name__}"
    if task.phase not in PHASES:
        return f"phase must be one of {', '.join(PHASES)}, received {shown(task.phase)}"
    if not is_count(task.round, 0, MOST_NUMBER):
        return f"round must be a whole number, 0 or more, received {shown(task.round)}"
    if not isinstance(task.stages, tuple) or not task.stages or not all(map(_is_stage, task.stages)):
        return f"its stages are malformed: {shown(task.stages)}"
    if not _are_names(task.upload):
        return "upload must be a set of names"
    return _model_form(task.model)


def _is_stage(stage: Any) -> bool:
    return (
        isinstance(stage, Stage)
        and _are_names(stage.trainable)
        and is_count(stage.epochs, 1, MOST_NUMBER)
        and (
            stage.experts is None
            or (isinstance(stage.experts, tuple) and all(is_count(e, 0, MOST_NUMBER) for e in stage.experts))
        )
    )


def _are_names(value: Any) -> bool:
    return isinstance(value, frozenset) and all(isinstance(name, str) for name in value)


def _model_form(model: Any) -> str:
    if not isinstance(model, ClientModel) or not isinstance(model.spec, AdapterSpec):
        return f"its model is a {type(model).__name__}"
    if not isinstance(model.candidates, tuple):
        return "candidates must be a list of named tensors"
    for tensors in (model.tensors, *model.candidates):
        if not isinstance(tensors, Mapping) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
        ):
            return "its model holds other things than named tensors"
    return _spec_fault(model.spec)


def _spec_fault(spec: AdapterSpec) -> str:
    experts = spec.num_experts
    needed = {"none": 1, "scalar": 2, "instance": 2}.get(spec.mixer, experts)
    rules = {
        "r": is_count(spec.r, 1, MOST_NUMBER),
        "alpha": is_number(spec.alpha, 0, MAX_VALUE) and spec.alpha > 0,
        "dropout": is_number(spec.dropout, 0, 1) and spec.dropout < 1,
        "num_experts": is_count(experts, 1, MOST_NUMBER) and experts == needed,
        "own": is_count(spec.own, 0, experts - 1),
        "mixer": spec.mixer in get_args(Mixer),
        "top_k": spec.top_k is None or is_count(spec.top_k, 1, num_slots(experts)),
        "renormalise": isinstance(spec.renormalise, bool),
        "blend": is_number(spec.blend, 0, 1),
        "anchors": is_count(spec.anchors, 0, MOST_NUMBER),
        "target_modules": isinstance(spec.target_modules, tuple)
        and 0 < len(spec.target_modules) <= MOST_MODULES
        and all(isinstance(name, str) for name in spec.target_modules),
    }
    wrong = [f"{name} = {shown(getattr(spec, name))}" for name, holds in rules.items() if not holds]
    return f"its adapter cannot be: {', '.join(wrong)}" if wrong else ""


@_guarded
def model_fault(
    model: ClientModel, rank: int, shapes: Mapping[str, tuple[int, int]], heads: Mapping[str, nn.Module]
) -> str:
    """Why a model does not fit the node's base model.

    Args:
        model: of a message whose form is right.
        rank: of the adapter, by the settings.
        shapes: module that the settings adapt -> (in features, out features), of the node's base model.
        heads: the head modules for its labels.
    """
    spec = model.spec
    if spec.r != rank or {*spec.target_modules} != shapes.keys() or len(spec.target_modules) != len(shapes):
        return f"its adapter is not of rank {rank} on the {len(shapes)} modules that the settings adapt"
    expected: dict[str, tuple[int, ...]] = {
        f"{HEAD}/{name}.{path}": tuple(parameter.shape)
        for name, module in heads.items()
        for path, parameter in module.named_parameters()
    }
    rows = {"top_m": num_slots(spec.num_experts), "softmax": spec.num_experts}
    for module, (features_in, features_out) in shapes.items():
        for expert in range(spec.num_experts):
            expected[str(TensorName(module, "A", expert))] = (spec.r, features_in)
            expected[str(TensorName(module, "B", expert))] = (features_out, spec.r)
        if spec.mixer in rows:
            expected[str(TensorName(module, "G"))] = (rows[spec.mixer], features_in)
        elif spec.mixer == "scalar":
            expected[str(TensorName(module, "G"))] = (1,)
    if model.tensors.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - model.tensors.keys()), sorted(model.tensors.keys() - expected.keys())
        return f"its model does not fit the base model: missing {shown(missing)}, unknown {shown(extra)}"
    for tensors in (model.tensors, *model.candidates):
        if strange := sorted(tensors.keys() - expected.keys()):
            return f"a candidate holds tensors that the model does not have: {shown(strange)}"
        for name in sorted(tensors):
            if fault := _tensor_fault(tensors[name], expected[name]):
                return f"{name} {fault}"
    return ""


def _tensor_fault(tensor: Tensor, shape: tuple[int, ...]) -> str:
    if tuple(tensor.shape) != shape:
        return f"has shape {tuple(tensor.shape)}, expected {shape}"
    if tensor.dtype != torch.float32:
        return f"has dtype {tensor.dtype}, expected torch.float32"
    if tensor.numel() and not float(tensor.abs().max()) <= MAX_VALUE:
        return f"holds values that are not numbers of at most {MAX_VALUE:g}"
    return ""


@_guarded
def task_fault(task: ClientTask, private: Collection[str]) -> str:
    """Why a task is not done, although its model fits.

    Args:
        task: whose form is right.
        private: names of tensors that the client has kept to itself in this run so far.
    """
    names = task.model.tensors.keys()
    for what, given in (("trainable", task.trainable), ("upload", task.upload)):
        if strange := sorted(given - names):
            return f"{what} names tensors that its model does not have: {shown(strange)}"
    # What is not trained is laid over with what the client keeps, and would leave as it is.
    if strange := sorted(task.upload - task.trainable):
        return f"upload names tensors that are not trained: {shown(strange)}"
    if strange := sorted(task.upload & {*private}):
        return f"upload names tensors that the client has kept to itself in this run: {shown(strange)}"
    most = task.model.spec.num_experts
    if strange_experts := [e for stage in task.stages for e in stage.experts or () if e >= most]:
        return f"stages name experts of a model that has {most}: {shown(strange_experts)}"
    return ""
