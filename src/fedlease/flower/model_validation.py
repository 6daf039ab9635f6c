"""Checks whether a model and a task fit the node's base model, labels and private tensors.

A check returns the fault as a sentence, or an empty text. The checks of form in ``validation.py`` come first.
"""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from fedlease.core.aggregate import MAX_VALUE
from fedlease.core.experts import CORE_SHAPES
from fedlease.core.routing import num_slots
from fedlease.core.sparse import count_of
from fedlease.core.types import HEAD, AdapterSpec, ClientModel, ClientTask, TensorName
from fedlease.flower.bounds import guarded, shown

__all__ = ["model_fault", "task_fault"]


@guarded
def model_fault(
    model: ClientModel, rank: int, shapes: Mapping[str, tuple[int, int]], heads: Mapping[str, nn.Module]
) -> str:
    """Why a model does not fit the node's base model.

    Args:
        model: the model of a message whose form was checked.
        rank: the adapter's rank by the settings.
        shapes: adapted module -> (in features, out features) in the node's base model.
        heads: the head modules for the client's labels.
    """
    spec = model.spec
    if spec.r != rank or {*spec.target_modules} != shapes.keys() or len(spec.target_modules) != len(shapes):
        return f"its adapter is not of rank {rank} on the {len(shapes)} modules that the settings adapt"
    expected = dict(_expected_shapes(spec, shapes, heads))
    if model.tensors.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - model.tensors.keys()), sorted(model.tensors.keys() - expected.keys())
        return f"its model does not fit the base model: missing {shown(missing)}, unknown {shown(extra)}"
    if strange := sorted(model.kept - expected.keys()):
        return f"kept names tensors that the model does not have: {shown(strange)}"
    for tensors in (model.tensors, *model.candidates):
        if strange := sorted(tensors.keys() - expected.keys()):
            return f"a candidate holds tensors that the model does not have: {shown(strange)}"
        for name in sorted(tensors):
            if fault := _tensor_fault(tensors[name], expected[name]):
                return f"{name} {fault}"
    return ""


def _expected_shapes(
    spec: AdapterSpec, shapes: Mapping[str, tuple[int, int]], heads: Mapping[str, nn.Module]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a model."""
    for name, module in heads.items():
        for path, parameter in module.named_parameters():
            yield f"{HEAD}/{name}.{path}", tuple(parameter.shape)
    slots = {"top_m": num_slots(spec.num_experts), "softmax": spec.num_experts}
    for target, (features_in, features_out) in shapes.items():
        for expert in range(spec.num_experts):
            yield str(TensorName(target, "A", expert)), (spec.r, features_in)
            yield str(TensorName(target, "B", expert)), (features_out, spec.r)
        if spec.mixer in slots:
            yield str(TensorName(target, "G")), (slots[spec.mixer], features_in)
        elif spec.mixer == "scalar":
            yield str(TensorName(target, "G")), (1,)
        elif shape := CORE_SHAPES.get(spec.mixer):
            yield str(TensorName(target, "G")), shape(spec.r, spec.num_experts)
        elif spec.mixer == "sparse":
            yield str(TensorName(target, "G")), (count_of((features_out, features_in), spec.density),)


def _tensor_fault(tensor: Tensor, shape: tuple[int, ...]) -> str:
    if tuple(tensor.shape) != shape:
        return f"has shape {tuple(tensor.shape)}, expected {shape}"
    if tensor.dtype != torch.float32:
        return f"has dtype {tensor.dtype}, expected torch.float32"
    if tensor.numel() and not float(tensor.abs().max()) <= MAX_VALUE:
        return f"holds values that are not numbers of at most {MAX_VALUE:g}"
    return ""


@guarded
def task_fault(task: ClientTask, private: Collection[str], *, masked: bool = False) -> str:
    """Why a node must not do a task although its model fits.

    Args:
        task: a task whose form was checked.
        private: names of the client's private tensors of this run.
        masked: whether the update leaves the node only in a secure sum.
    """
    names = task.model.tensors.keys()
    for what, given in (("trainable", task.trainable), ("upload", task.upload)):
        if strange := sorted(given - names):
            return f"{what} names tensors that its model does not have: {shown(strange)}"
    # Private values replace received ones: a private tensor that is not trained would be uploaded as it is.
    if task.model.warmed and task.stages:
        return "tensors that a client has kept from its warm-up are not trained further"
    kept = task.model.names("AB") if task.model.warmed and not task.stages else frozenset()
    if strange := sorted(task.upload - task.trainable - kept):
        return f"upload names tensors that are not trained: {shown(strange)}"
    if kept:
        return "" if masked else "a warm-up that was sketched is not sent without masks (privacy.secure_sums)"
    if task.sketch is not None:
        if strange := sorted(task.upload - task.model.names("AB")):
            return f"upload names tensors that are not sketched: {shown(strange)}"
        kind = "A" if task.sketch.signal == "A" else "B"
        sizes = [task.model.tensors[name].numel() for name in task.upload & task.model.names(kind)]
        if (numbers := task.sketch.numbers * len(sizes)) > sum(sizes):
            return f"its sketch has more numbers, {numbers}, than {kind}, {sum(sizes)}"
    if strange := sorted(task.upload & {*private}):
        return f"upload names private tensors of this run: {shown(strange)}"
    slope = {} if task.term is None else task.term.slope
    if strange := sorted(slope.keys() - task.trainable):
        return f"the slope of its term names tensors that are not trained: {shown(strange)}"
    for name in sorted(slope):
        if fault := _tensor_fault(slope[name], tuple(task.model.tensors[name].shape)):
            return f"the slope of its term: {name} {fault}"
    most = task.model.spec.num_experts
    if unknown := [e for stage in task.stages for e in stage.experts or () if e >= most]:
        return f"stages name experts of a model that has {most}: {shown(unknown)}"
    return ""
