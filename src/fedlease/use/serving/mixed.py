"""One frozen base in which the rows of one batch go through the adapters, routings and heads of different clients."""

import copy
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlease.core.routing import mix
from fedlease.core.types import HEAD, AdapterSpec, ClientId, ClientModel, Mixer, TensorName, Tensors, head_names
from fedlease.errors import ModelError
from fedlease.models import BaseModel, new_head_modules
from fedlease.peft_plugin.state import copy_into
from fedlease.use.open_run import OpenRun

__all__ = ["MixedHead", "MixedLinear", "MixedModel"]


class _Rule(NamedTuple):
    """What rows must have in common to be routed in one product."""

    mixer: Mixer
    num_experts: int
    top_k: int | None
    renormalise: bool
    scaling: float


@dataclass(frozen=True)
class _Profile:
    """A client as numbers of what is kept once; ``experts[e]`` is the number of its expert e."""

    rule: _Rule
    own: int
    experts: tuple[int, ...]
    router: int
    head: int
    num_labels: int


@dataclass(frozen=True)
class _Routed:
    """Neighbouring rows under one rule: g of them, with T tokens and M experts each."""

    rule: _Rule
    rows: slice
    own: Tensor  # (g, 1)
    columns: Tensor  # (g, 1, M), places in the batch's experts
    routers: tuple[int, ...]  # distinct
    router_of_row: Tensor  # (g,), places in ``routers``


@dataclass
class _Plan:
    """Which way each row of the current batch goes; every layer and head of one model reads the same plan."""

    size: int = 0
    experts: tuple[int, ...] = ()
    routed: list[_Routed] = field(default_factory=list)
    heads: list[tuple[int, Tensor]] = field(default_factory=list)  # head, its rows


class MixedLinear(nn.Module):
    """y = W0 x + sum over experts u of w_u(row, token) B_u A_u x, with w zero outside the row's client's experts.

    Args:
        base_layer: the frozen linear module.
        name: its dotted path, for messages.
        plan: of the batch that is computed.
    """

    def __init__(self, base_layer: nn.Module, name: str, plan: _Plan) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.name, self.plan = name, plan
        # By number: A of experts (r, in), B of experts (out, r), routers G (slots, in).
        self.kept: dict[str, list[Tensor]] = {"A": [], "B": [], "G": []}
        self._stacked: tuple[tuple[int, ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(rows, ..., in) -> (rows, ..., out); a ModelError where rows do not come first."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if x.dim() < 2 or x.shape[0] != self.plan.size:
            raise ModelError(
                f"model: {self.name} receives {tuple(x.shape)} for {self.plan.size} rows; rows of several clients can "
                "be computed together only where rows come first"
            )
        a, b = self._stacks(self.plan.experts)  # (U r, in), (out, U r)
        x = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)  # (rows, T, in)
        hidden = F.linear(x.to(a.dtype), a)  # (rows, T, U r)
        weights = self._weights(x).to(hidden.dtype)  # (rows, T, U)
        hidden = (hidden.unflatten(-1, (len(self.plan.experts), -1)) * weights.unsqueeze(-1)).flatten(0, 1).flatten(1)
        flat = result.flatten(0, -2)  # (rows T, out)
        if hidden.dtype == b.dtype == flat.dtype:
            return torch.addmm(flat, hidden, b.T).view_as(result)
        return (flat + F.linear(hidden, b).to(flat.dtype)).view_as(result)

    def _stacks(self, experts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        # Under FedLEASE every batch has the same experts, so that they are stacked once.
        if self._stacked is None or self._stacked[0] != experts:
            a, b = ([self.kept[kind][u] for u in experts] for kind in "AB")
            self._stacked = (experts, torch.cat(a), torch.cat(b, 1))
        return self._stacked[1], self._stacked[2]

    def _weights(self, x: Tensor) -> Tensor:
        """Scaled weights, (rows, T, U) float32, of x as (rows, T, in)."""
        weights = torch.zeros(*x.shape[:2], len(self.plan.experts), device=x.device)
        for part in self.plan.routed:
            rule, target = part.rule, weights[part.rows]
            columns = part.columns.expand(-1, x.shape[1], -1)
            if rule.mixer == "none":
                target.scatter_(-1, columns, rule.scaling)
                continue
            # (g, slots, in); a scalar, (g, 1), is the logit itself.
            routers = torch.stack([self.kept["G"][g] for g in part.routers])[part.router_of_row].float()
            # The selection is a comparison of logits: in 16 bits near ties would flip.
            with torch.autocast(x.device.type, enabled=False):
                logits = routers.unsqueeze(1) if rule.mixer == "scalar" else x[part.rows].float() @ routers.mT
            found = mix(logits, rule.mixer, part.own, rule.renormalise, rule.top_k)
            # Adds, for two experts of a client with the same content share a column.
            target.scatter_add_(-1, columns, found.expand(columns.shape) * rule.scaling)
        return weights


class MixedHead(nn.Module):
    """Stands for a head module: sends each row through the one of its client, as the plan says."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__()
        self.plan = plan
        self.heads = nn.ModuleList()

    def forward(self, features: Tensor) -> Tensor:
        """(rows, ...) -> (rows, ..., widest label list), shorter ones padded with -inf."""
        parts: list[Tensor] = [self.heads[head](features[rows]) for head, rows in self.plan.heads]
        widest = max(part.shape[-1] for part in parts)
        result = parts[0].new_empty((self.plan.size, *parts[0].shape[1:-1], widest))
        for (_, rows), part in zip(self.plan.heads, parts, strict=True):
            result[rows] = F.pad(part, (0, widest - part.shape[-1]), value=float("-inf"))
        return result


class MixedModel:
    """Computes rows of any clients in one pass over the base; clients are loaded when they first occur.

    Experts, routers and heads that several clients have in common are kept once, found by content. The base's weights
    are shared with ``base``, which stays as it is. One batch at a time: other threads wait.

    Args:
        base: the frozen model.
        device: where it computes; the base must be there.
        models: client -> complete model, head included.
        num_labels: client -> length of its label list.
        autocast: type of the products when the base is not float32; None computes in the base's own type.
    """

    def __init__(
        self,
        base: BaseModel,
        device: torch.device,
        models: Callable[[ClientId], ClientModel],
        num_labels: Mapping[ClientId, int],
        autocast: torch.dtype | None = None,
    ) -> None:
        self.device = device
        self.autocast = autocast
        # A copy of the modules around the very same tensors.
        shared = {id(tensor): tensor for tensor in (*base.model.parameters(), *base.model.buffers())}
        self.model: nn.Module = copy.deepcopy(base.model, dict(shared)).eval()
        self._models, self._num_labels = models, num_labels
        self._plan = _Plan()
        self._heads = {name: MixedHead(self._plan) for name in base.head_modules}
        for name, head in self._heads.items():
            self.model.set_submodule(name, head)
        self._layers: dict[str, MixedLinear] = {}
        self._r = 0
        self._clients: dict[ClientId, _Profile] = {}
        self._numbers: dict[str, dict[bytes, int]] = {}
        self._empty_head = functools.cache(functools.partial(new_head_modules, base))
        self._lock = threading.Lock()

    @classmethod
    def of_run(cls, run: OpenRun) -> "MixedModel":
        """All clients of a run, newcomers included, around the base that the run has loaded."""
        num_labels = {client: len(known.labels) for client, known in run.clients.items()}
        return cls(run.base, run.device, run.model, num_labels, run.resident.autocast)

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], clients: Sequence[ClientId]) -> list[Tensor]:
        """What each row's client's own model says of it: float32 on the CPU, as long as the client's label list.

        Args:
            inputs: model input -> (rows, tokens), padded, on the device.
            clients: one per row, at least one.

        Raises:
            ModelError: the adapters of the clients do not go together, or rows do not come first in this architecture.
            ValueError: a model's tensors are not those its spec asks for.
        """
        with self._lock:
            profiles = [self._profile(client) for client in clients]
            # Rows under one rule become neighbours: a slice of them is no copy.
            order = sorted(range(len(profiles)), key=lambda row: str(profiles[row].rule))
            self._direct([profiles[row] for row in order])
            index = torch.tensor(order, device=self.device)
            with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                output = self.model(**{name: values[index] for name, values in inputs.items()}).logits
        found = dict(zip(order, output.float().cpu(), strict=True))
        return [found[row][: profile.num_labels] for row, profile in enumerate(profiles)]

    def _direct(self, profiles: Sequence[_Profile]) -> None:
        """Writes the plan for rows in this order."""
        plan = self._plan
        plan.size = len(profiles)
        plan.experts = tuple(sorted({u for profile in profiles for u in profile.experts}))
        place = {u: column for column, u in enumerate(plan.experts)}
        plan.routed = []
        start = 0
        for rule, members in itertools.groupby(profiles, key=lambda profile: profile.rule):
            part = list(members)
            routers = tuple(sorted({profile.router for profile in part}))
            own = self._ids([[profile.own] for profile in part])
            columns = self._ids([[[place[u] for u in profile.experts]] for profile in part])
            router_of_row = self._ids([routers.index(profile.router) for profile in part])
            rows = slice(start, start + len(part))
            plan.routed.append(_Routed(rule, rows, own, columns, routers, router_of_row))
            start += len(part)
        heads = [profile.head for profile in profiles]
        plan.heads = [(head, self._ids([row for row, h in enumerate(heads) if h == head])) for head in sorted({*heads})]

    def _ids(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def _profile(self, client: ClientId) -> _Profile:
        if client not in self._clients:
            model = self._models(client)
            spec, tensors = model.spec, model.tensors
            self._check(client, spec, tensors)
            experts = tuple(self._keep("AB", expert, tensors) for expert in range(spec.num_experts))
            rule = _Rule(spec.mixer, spec.num_experts, spec.top_k, spec.renormalise, spec.alpha / spec.r)
            router = -1 if spec.mixer == "none" else self._keep("G", None, tensors)
            num_labels = self._num_labels[client]
            head = self._keep_head(tensors, num_labels)
            self._clients[client] = _Profile(rule, spec.own, experts, router, head, num_labels)
        return self._clients[client]

    def _check(self, client: ClientId, spec: AdapterSpec, tensors: Tensors) -> None:
        if spec.mixer == "instance":
            raise ModelError(f"client {client!r}: mixer 'instance' takes two passes and cannot be computed with others")
        if not self._layers:
            self._r = spec.r
            for name in spec.target_modules:
                layer = self.model.get_submodule(name)
                # Where PEFT has wrapped the base already, what it wrapped.
                self._layers[name] = MixedLinear(getattr(layer, "base_layer", layer), name, self._plan)
                self.model.set_submodule(name, self._layers[name])
        if set(spec.target_modules) != set(self._layers) or spec.r != self._r:
            raise ModelError(
                f"client {client!r}: its adapter has rank {spec.r} on {len(spec.target_modules)} modules, those of "
                f"other clients rank {self._r} on {len(self._layers)}; computed together they must have the same"
            )
        kinds = [f"{kind}/{expert}" for kind in "AB" for expert in range(spec.num_experts)]
        expected = {f"{m}/{k}" for m in self._layers for k in kinds + ["G"] * (spec.mixer != "none")}
        if differing := sorted(expected ^ (tensors.keys() - head_names(tensors))):
            raise ValueError(f"client {client!r}: its tensors do not fit its spec: {differing} missing or unknown")

    def _number(self, kind: str, tensors: Iterable[Tensor]) -> tuple[int, bool]:
        """The number of what has this content, and whether it is new."""
        digest = hashlib.sha256()
        for tensor in tensors:
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.view(torch.uint8).numpy().data)
        known = self._numbers.setdefault(kind, {})
        new = digest.digest() not in known
        return known.setdefault(digest.digest(), len(known)), new

    def _keep(self, kinds: str, expert: int | None, tensors: Tensors) -> int:
        """The number of an expert (``AB``) or a router (``G``), put into the layers if none has its content yet."""
        names = {(module, kind): str(TensorName(module, kind, expert)) for module in self._layers for kind in kinds}
        number, new = self._number(kinds, (tensors[name] for name in names.values()))
        for (module, kind), name in names.items() if new else ():
            self._layers[module].kept[kind].append(tensors[name].to(self.device))
        return number

    def _keep_head(self, tensors: Tensors, num_labels: int) -> int:
        values = {name: tensors[name] for name in sorted(head_names(tensors))}
        modules = copy.deepcopy(self._empty_head(num_labels))
        copy_into({f"{HEAD}/{n}.{p}": v for n, m in modules.items() for p, v in m.named_parameters()}, values)
        number, new = self._number(HEAD, values.values())
        for name, head in self._heads.items() if new else ():
            head.heads.append(modules[name].to(self.device))
        return number
