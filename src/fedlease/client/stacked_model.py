"""The base model with the adapters and heads of several clients at once."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedlease.client.block import Block
from fedlease.client.resident import ResidentModel
from fedlease.client.stacked_layers import Plan, StackedHead, StackedLinear
from fedlease.core.experts import CORE_SHAPES, ROUTER_ROWS, Rule, chosen, mix
from fedlease.core.types import ANCHOR, HEAD, AdapterSpec, TensorName, Tensors, head_names
from fedlease.tasks.encoded import Encoded, Inputs

__all__ = ["StackedModel", "slots_of", "to_slots"]


def slots_of(spec: AdapterSpec) -> list[int]:
    """The expert of every slot.

    Under ``top_m``, the own expert comes first, as in the router, so that clients of all experts have one layout;
    otherwise experts are in their order.
    """
    others = [expert for expert in range(spec.num_experts) if expert != spec.own]
    return [spec.own, *others] if spec.mixer == "top_m" else list(range(spec.num_experts))


def to_slots(names: Collection[str], spec: AdapterSpec) -> dict[str, str]:
    """Name of a tensor -> its name by slot, with the number of the slot instead of the expert."""
    slots = {expert: slot for slot, expert in enumerate(slots_of(spec))}
    found = {}
    for name in names:
        parsed = TensorName.parse(name)
        found[name] = name if parsed.expert is None else str(parsed._replace(expert=slots[parsed.expert]))
    return found


class StackedModel:
    """A model that computes the rows of several clients in one pass.

    Its modules are a second tree around the weights of the base model, whose own tree does not change.

    Args:
        resident: provides base model, device and task.
        modules: paths of the adapted modules.

    Attributes:
        plan: of the current batch.
        trained: the trained tensors, a row per client.
        num_labels: number of labels of every client.
    """

    def __init__(self, resident: ResidentModel, modules: Collection[str]) -> None:
        self.device, self._resident = resident.device, resident
        self.plan = Plan()
        self.model = resident.twin()
        self._layers = {
            name: StackedLinear(self.model.get_submodule(name), name, self.plan) for name in sorted(modules)
        }
        self._heads = {name: StackedHead(self.plan) for name in resident.head_modules(1)}
        for name, module in (*self._layers.items(), *self._heads.items()):
            self.model.set_submodule(name, module)
        self._pad_id = 0
        self._missing: Tensor | None = None
        self._anchors: Tensor | None = None
        self._weighs = False
        self.num_labels: Sequence[int] = ()
        self._leaves: dict[str, Tensor] = {}
        self.trained = self._frozen = Block([], (), self.device)

    def load(
        self,
        spec: AdapterSpec,
        clients: Sequence[Tensors],
        num_labels: Sequence[int],
        trainable: Collection[str] = (),
        only: tuple[int, ...] | None = None,
    ) -> None:
        """Loads the tensors of clients.

        Args:
            spec: of all clients, apart from the own expert, which the slots account for.
            clients: each client's tensors, named by slot.
            num_labels: number of labels of every client.
            trainable: names by slot of the trained tensors, which become :attr:`trained`.
            only: slots that are summed with weight 1 each, instead of using the mixer.
        """
        frozen = clients[0].keys() - {ANCHOR, *trainable}
        self.trained = Block(clients, trainable, self.device)
        self._frozen = Block(clients, frozen, self.device)
        self.num_labels = list(num_labels)
        for name, head in self._heads.items():
            head.use(self._resident.head_modules(max(num_labels))[name])
        self._combine(spec, only)
        anchors = [tensors.get(ANCHOR) for tensors in clients]
        known = next((anchor for anchor in anchors if anchor is not None), None)
        if known is not None:  # a client without an anchor has similarity 0 with every input
            known = torch.stack([torch.zeros_like(known) if anchor is None else anchor for anchor in anchors])
        self._anchors = None if known is None else known.to(self.device)

    def _combine(self, spec: AdapterSpec, only: tuple[int, ...] | None) -> None:
        plan, mixer = self.plan, spec.mixer
        if mixer in ROUTER_ROWS and spec.num_experts == 1:
            mixer = "none"  # a single expert needs no router
        plan.rule = Rule(
            mixer, spec.num_experts, spec.alpha / spec.r, spec.top_k, spec.renormalise, spec.blend, spec.places
        )
        plan.dropout, plan.weights = spec.dropout, None
        like = torch.empty(0, device=self.device)
        self._weighs = mixer == "instance" and only is None
        if mixer in ("none", "sum", "sparse", *CORE_SHAPES) or only is not None:
            slots = range(spec.num_experts) if only is None else only
            plan.weights = chosen(slots, spec.num_experts, like) * plan.rule.scaling
        elif mixer == "instance":
            plan.weights = like.new_tensor([1 - spec.blend, spec.blend]) * plan.rule.scaling

    def narrow(self, clients: int) -> None:
        """Restricts the computation to the first clients, at least one."""
        self._leaves = {name: self.trained.view(name, clients).requires_grad_() for name in self.trained.names}
        self._place({name: self._frozen.view(name, clients) for name in self._frozen.names} | self._leaves, clients)
        labels, most = self.num_labels[:clients], max(self.num_labels)
        missing = torch.arange(most) >= torch.tensor(labels).unsqueeze(1)  # (clients, labels)
        self._missing = missing.unsqueeze(1).to(self.device) if min(labels) < most else None

    def spread(
        self,
        spec: AdapterSpec,
        tensors: Tensors,
        rows: int,
        num_labels: int,
        trainable: Collection[str],
        only: tuple[int, ...] | None = None,
    ) -> dict[str, Tensor]:
        """Loads one client's tensors with a separate view for every row, so that each row has its own gradient.

        Args:
            spec: of the client.
            tensors: named by slot, on the device.
            rows: number of rows of the next batch.
            num_labels: number of the client's labels.
            trainable: names by slot of the trained tensors.
            only: as for :meth:`load`.

        Returns:
            Name by slot -> the views with respect to which losses are differentiated, (rows, *shape), for every trained
            tensor.
        """
        for name, head in self._heads.items():
            head.use(self._resident.head_modules(num_labels)[name])
        self._combine(spec, only)
        found = {name: tensor.detach().expand(rows, *tensor.shape) for name, tensor in tensors.items()}
        leaves = {name: found[name].requires_grad_() for name in sorted(trainable)}
        self._place(found, rows)
        self._missing = None
        return leaves

    def _place(self, found: Tensors, clients: int) -> None:
        experts = range(self.plan.rule.num_experts)
        for module, layer in self._layers.items():
            layer.a = [found[str(TensorName(module, "A", slot))] for slot in experts]
            layer.b = [found[str(TensorName(module, "B", slot))] for slot in experts]
            layer.router = found.get(str(TensorName(module, "G")))
        for module, head in self._heads.items():
            paths = {name: name.removeprefix(f"{HEAD}/{module}.") for name in head_names(found)}
            head.tensors = {path: found[name] for name, path in paths.items() if path != name}
        self.plan.clients = clients

    def gradients(self, loss: Tensor) -> Tensor:
        """Gradients of the sum of the clients' losses, (clients, width of the block); the next step overwrites them."""
        leaves = self._leaves
        found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
        return self.trained.joined(dict(zip(leaves, found, strict=True)))

    @contextmanager
    def using(self, rows: Encoded, *, training: bool = False) -> Iterator[None]:
        """Within the context, batches with the padding of these rows can be computed; then all tensors are dropped."""
        self._pad_id, self.plan.left = rows.pad_id, rows.left
        self.model.train(training)
        try:
            yield
        finally:
            self.model.eval()
            for layer in self._layers.values():
                layer.clear()
            for head in self._heads.values():
                head.tensors = {}
            self._leaves = {}
            self.trained = self._frozen = Block([], (), self.device)

    def next_batch(self, own: Sequence[tuple[int, int]]) -> None:
        """Sets the rows and tokens per row that every client's batch would have alone; dropout is drawn again."""
        self.plan.own = own
        self.plan.step += 1

    def generate(self, inputs: Inputs, **options: Any) -> Tensor:
        """Generates as :meth:`fedlease.client.resident.ResidentModel.generate`; rows are as for :meth:`logits`."""
        self.plan.rows = len(inputs["input_ids"])
        return self._resident.generate_by(self.model, inputs, **options)

    def represent(self, inputs: Inputs) -> Tensor:
        """Unit directions of rows under only expert 1 of their client, (rows, hidden).

        See :meth:`fedlease.client.resident.ResidentModel.represent`.
        """
        with self._weighed_by(chosen((1,), self.plan.rule.num_experts, torch.empty(0, device=self.device))):
            return self._resident.represent_by(self.model, self._ready(inputs))

    @contextmanager
    def weighing(self, questions: Inputs) -> Iterator[None]:
        """Works as :meth:`fedlease.client.resident.ResidentModel.weighing`; rows are as for :meth:`logits`."""
        if not self._weighs or self.model.training:
            yield
            return
        clients = self.plan.clients
        shares = torch.zeros(clients, 1, device=self.device)
        if self._anchors is not None:
            units = self.represent(questions).unflatten(0, (clients, -1))
            shares = self.plan.rule.blend * (units * self._anchors[:clients].unsqueeze(1)).sum(-1).clamp(min=0)
        self._weighs = False
        try:
            with self._weighed_by(mix(shares.unsqueeze(-1), self.plan.rule, 0)):
                yield
        finally:
            self._weighs = True

    @contextmanager
    def _weighed_by(self, weights: Tensor) -> Iterator[None]:
        before, self.plan.weights = self.plan.weights, weights * self.plan.rule.scaling
        try:
            yield
        finally:
            self.plan.weights = before

    def _ready(self, inputs: Inputs) -> Inputs:
        """Pads the inputs if they have as many rows as tokens, so that a module with tokens first is noticed."""
        rows, tokens = inputs["input_ids"].shape
        self.plan.rows = rows
        if rows != tokens:
            return inputs
        sides = (1, 0) if self.plan.left else (0, 1)
        return {
            name: nn.functional.pad(values, sides, value=self._pad_id if name == "input_ids" else 0)
            for name, values in inputs.items()
        }

    def logits(self, inputs: Inputs, last: int | None = None) -> Tensor:
        """The logits, with -inf for labels that a client does not have.

        See :meth:`fedlease.client.resident.ResidentModel.logits`. A batch has equally many rows of every client, client
        after client.
        """
        with self.weighing(inputs):
            logits = self._resident.logits_of(self.model, self._ready(inputs), last)
        if self._missing is None or not self._heads:
            return logits
        by_client = logits.unflatten(0, (self.plan.clients, -1))
        masked: Tensor = by_client.masked_fill(self._missing, float("-inf"))
        return masked.flatten(0, 1)
