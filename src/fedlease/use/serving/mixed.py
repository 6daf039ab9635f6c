"""One frozen base for batches whose rows use the adapters, routers and heads of different clients."""

import copy
import functools
import hashlib
import inspect
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fedlease.core.experts import CORE_SHAPES, Rule
from fedlease.core.folding import fold
from fedlease.core.low_rank import at_rank
from fedlease.core.types import HEAD, AdapterSpec, ClientId, ClientModel, TensorName, Tensors, head_names
from fedlease.errors import ModelError
from fedlease.models.base import BaseModel, new_head_modules
from fedlease.models.first_token import first_token_alone
from fedlease.models.padding import groups_of
from fedlease.peft_plugin.state import copy_into
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.mixed_layers import MixedHead, MixedLinear, Plan, Profile, Routed

__all__ = ["MixedModel"]


class MixedModel:
    """Computes rows of any clients in one pass over the base; a client is loaded when it first occurs.

    Experts, routers and heads with equal content are stored once. Weights are shared with ``base``, which does not
    change. Only one batch is computed at a time; other threads wait.

    Args:
        base: the frozen model.
        device: device of the computation, on which the base is.
        models: function from a client to its complete model, with its head.
        num_labels: client -> number of its labels.
        autocast: type of matrix products if the base is not float32; None computes in the base's own type.
        skip_unread: see :class:`fedlease.client.resident.ResidentModel`.
    """

    def __init__(
        self,
        base: BaseModel,
        device: torch.device,
        models: Callable[[ClientId], ClientModel],
        num_labels: Mapping[ClientId, int],
        autocast: torch.dtype | None = None,
        *,
        skip_unread: bool = False,
    ) -> None:
        self.device = device
        self._skip_unread = skip_unread
        self.autocast = autocast
        # Copies the modules but not their tensors.
        shared = {id(tensor): tensor for tensor in (*base.model.parameters(), *base.model.buffers())}
        self.model: nn.Module = copy.deepcopy(base.model, dict(shared)).eval()
        self._arguments = inspect.signature(self.model.forward).parameters
        self._models, self._num_labels = models, num_labels
        self._plan = Plan()
        self._heads = {name: MixedHead(self._plan) for name in base.head_modules}
        for name, head in self._heads.items():
            self.model.set_submodule(name, head)
        self._layers: dict[str, MixedLinear] = {}
        self._r = 0
        self._clients: dict[ClientId, Profile] = {}
        self._numbers: dict[str, dict[bytes, int]] = {}
        self._empty_head = functools.cache(functools.partial(new_head_modules, base))
        self._lock = threading.Lock()

    @classmethod
    def of_run(cls, run: OpenRun) -> "MixedModel":
        """A model for all clients of a run, including newcomers, around the base that the run has loaded."""
        num_labels = {client: len(known.labels) for client, known in run.clients.items()}
        return cls(
            run.base,
            run.device,
            lambda client: _of_one_rank(run.model(client), run.settings.lora.largest),
            num_labels,
            run.resident.autocast,
            skip_unread=run.resident.skip_unread,
        )

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], clients: Sequence[ClientId]) -> list[Tensor]:
        """Logits of each row by its client's own model, (number of the client's labels,), float32, on the CPU.

        Args:
            inputs: model input -> (rows, tokens), padded, on the device.
            clients: one client per row, at least one.

        Raises:
            ModelError: adapters of clients differ in rank or modules, or rows are not the first dimension in this
                architecture.
            ValueError: a model's tensors do not fit its spec.
        """
        groups = groups_of(self.model.config, inputs)
        if len(groups) > 1:
            logits: dict[int, Tensor] = {}
            for rows in groups:
                places = rows.tolist()
                found = self.logits({n: values[rows] for n, values in inputs.items()}, [clients[i] for i in places])
                logits |= zip(places, found, strict=True)
            return [logits[row] for row in range(len(clients))]
        with self._lock:
            profiles = [self._profile(client) for client in clients]
            # Rows with the same rule become neighbours, so that a slice selects them without a copy.
            order = sorted(range(len(profiles)), key=lambda row: str(profiles[row].rule))
            self._write_plan([profiles[row] for row in order])
            index = torch.tensor(order, device=self.device)
            autocast = torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)
            with autocast, first_token_alone(self.model) if self._skip_unread else nullcontext():
                taken = {name: values[index] for name, values in inputs.items() if name in self._arguments}
                output = self.model(**taken).logits
        of_row = dict(zip(order, output.float().cpu(), strict=True))
        return [of_row[row][: profile.num_labels] for row, profile in enumerate(profiles)]

    def _write_plan(self, profiles: Sequence[Profile]) -> None:
        """Writes the plan for rows in this order."""
        plan = self._plan
        plan.size = len(profiles)
        plan.experts = tuple(sorted({u for profile in profiles for u in profile.experts}))
        place = {u: column for column, u in enumerate(plan.experts)}
        plan.routed = []
        start = 0
        for rule, members in itertools.groupby(profiles, key=lambda profile: profile.rule):
            group = list(members)
            routers = tuple(sorted({profile.router for profile in group}))
            own = self._ids([[profile.own] for profile in group])
            columns = self._ids([[[place[u] for u in profile.experts]] for profile in group])
            router_of_row = self._ids([routers.index(profile.router) for profile in group])
            plan.routed.append(Routed(rule, slice(start, start + len(group)), own, columns, routers, router_of_row))
            start += len(group)
        heads = [profile.head for profile in profiles]
        plan.heads = [(head, self._ids([row for row, h in enumerate(heads) if h == head])) for head in sorted({*heads})]

    def _ids(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def _profile(self, client: ClientId) -> Profile:
        if client not in self._clients:
            model = self._models(client)
            spec, tensors = model.spec, model.tensors
            self._check(client, spec, tensors)
            experts = tuple(self._store("AB", expert, tensors) for expert in range(spec.num_experts))
            rule = Rule(spec.mixer, spec.num_experts, spec.alpha / spec.r, spec.top_k, spec.renormalise)
            router = self._store("G", None, tensors) if spec.routed else -1
            num_labels = self._num_labels[client]
            head = self._head(tensors, num_labels)
            self._clients[client] = Profile(rule, spec.own, experts, router, head, num_labels)
        return self._clients[client]

    def _check(self, client: ClientId, spec: AdapterSpec, tensors: Tensors) -> None:
        if spec.mixer == "instance":
            raise ModelError(f"client {client!r}: mixer 'instance' takes two passes and cannot be computed with others")
        if not self._layers:
            self._r = spec.r
            for name in spec.target_modules:
                layer = self.model.get_submodule(name)
                # PEFT may have wrapped the base already.
                self._layers[name] = MixedLinear(getattr(layer, "base_layer", layer), name, self._plan)
                self.model.set_submodule(name, self._layers[name])
        if set(spec.target_modules) != set(self._layers) or spec.r != self._r:
            raise ModelError(
                f"client {client!r}: its adapter has rank {spec.r} on {len(spec.target_modules)} modules, those of "
                f"other clients rank {self._r} on {len(self._layers)}; computed together they must have the same"
            )
        kinds = [f"{kind}/{expert}" for kind in "AB" for expert in range(spec.num_experts)]
        expected = {f"{m}/{k}" for m in self._layers for k in kinds + ["G"] * spec.routed}
        if differing := sorted(expected ^ (tensors.keys() - head_names(tensors))):
            raise ValueError(f"client {client!r}: its tensors do not fit its spec: {differing} missing or unknown")

    def _number(self, kind: str, tensors: Iterable[Tensor]) -> tuple[int, bool]:
        """The number for tensors with this content, and whether it is new."""
        digest = hashlib.sha256()
        for tensor in tensors:
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.view(torch.uint8).numpy().data)
        known = self._numbers.setdefault(kind, {})
        new = digest.digest() not in known
        return known.setdefault(digest.digest(), len(known)), new

    def _store(self, kinds: str, expert: int | None, tensors: Tensors) -> int:
        """The number of an expert (``AB``) or a router (``G``), which is added to the layers if its content is new."""
        names = {(module, kind): str(TensorName(module, kind, expert)) for module in self._layers for kind in kinds}
        number, new = self._number(kinds, (tensors[name] for name in names.values()))
        for (module, kind), name in names.items() if new else ():
            self._layers[module].tensors[kind].append(tensors[name].to(self.device))
        return number

    def _head(self, tensors: Tensors, num_labels: int) -> int:
        values = {name: tensors[name] for name in sorted(head_names(tensors))}
        modules = copy.deepcopy(self._empty_head(num_labels))
        copy_into({f"{HEAD}/{n}.{p}": v for n, m in modules.items() for p, v in m.named_parameters()}, values)
        number, new = self._number(HEAD, values.values())
        for name, head in self._heads.items() if new else ():
            head.heads.append(modules[name].to(self.device))
        return number


def _of_one_rank(model: ClientModel, rank: int) -> ClientModel:
    """Pads a model with zeros to the common rank, which changes no product.

    An adapter with a matrix between B and A is folded into a single one first, whose rank may be higher but is the same
    for all clients.
    """
    model = fold(model, {}) if model.spec.mixer in ("sparse", *CORE_SHAPES) else model
    return at_rank(model, max(rank, model.spec.r))
