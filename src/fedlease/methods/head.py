"""The head policy, ``local``, ``shared`` or ``frozen``, as a wrapper around any method."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from fedlease.core.aggregate import Mean, client_weights, weighted_mean
from fedlease.core.choices import HeadPolicy, Weighting
from fedlease.core.codec import serialisable
from fedlease.core.row_noise import comparable
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Tensors, head_names
from fedlease.errors import ConfigError
from fedlease.methods.base import Method
from fedlease.methods.warmup import WARMUP
from fedlease.methods.wrapper import Wrapper, WrapperState

__all__ = ["Head", "HeadState", "WithHead", "with_head"]


@dataclass(frozen=True)
class Head:
    """One client's classifier head before training.

    Attributes:
        labels: the client's label list.
        tensors: ``head/<parameter>`` -> value; the same for all clients with equally many labels.
    """

    labels: tuple[str, ...]
    tensors: Tensors


@serialisable
@dataclass(frozen=True, kw_only=True)
class HeadState(WrapperState):
    """The wrapped state with shared heads.

    Attributes:
        heads: client -> its current head; {} unless heads are shared.
        late: clients that were admitted after the start; a late client with other labels than its group's shares its
            head with no other client.
    """

    heads: Mapping[ClientId, Tensors]
    late: frozenset[ClientId] = frozenset()


@dataclass(frozen=True)
class WithHead(Wrapper):
    """A method whose tasks also have a classifier head; made by :func:`with_head`.

    Attributes:
        policy: ``local``: trained and never uploaded; ``shared``: trained and averaged within the method's groups;
            ``frozen``: never trained, as in the authors' released code.
        heads: client -> initial head.
        weights: weights of clients in the mean of shared heads.
        mean: mean of shared heads.
        rests: whether the warm-up trains only B and the biases of the head, as under differential privacy.
    """

    policy: HeadPolicy
    heads: Mapping[ClientId, Head]
    weights: Weighting = "num_examples"
    mean: Mean = weighted_mean
    rests: bool = False

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> HeadState:
        """The wrapped method's first state, with the initial heads if heads are shared."""
        heads = {client: dict(self.heads[client].tensors) for client in sorted(clients)}
        inner = self.method.init(adapter, clients, seed)
        state = HeadState(inner=inner, heads=heads if self.policy == "shared" else {})
        self._check_groups(state)
        return state

    def task(self, state: HeadState, client: ClientId) -> ClientTask | None:
        """The wrapped method's task with the head, which is trained and uploaded as the policy says."""
        task = self.method.task(state.inner, client)
        if task is None:
            return None
        names = frozenset(self.heads[client].tensors)
        stages = task.stages
        if self.policy != "frozen":
            stages = tuple(replace(stage, trainable=stage.trainable | names) for stage in stages)
        if self.rests and task.phase == WARMUP:
            stages = tuple(replace(stage, trainable=comparable(stage.trainable)) for stage in stages)
        upload = task.upload | names if self.policy == "shared" else task.upload
        model = self._with_head(state, client, task.model)
        return replace(task, model=model, stages=stages, upload=upload)

    def aggregate(
        self, state: HeadState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> HeadState:
        """The wrapped method's aggregation; shared heads are averaged within each group."""
        bare = [replace(update, tensors=_without_head(update.tensors)) for update in updates]
        after = replace(state, inner=self.method.aggregate(state.inner, bare, absent))
        if self.policy != "shared":
            return after
        current = {**state.heads, **{u.client: {n: u.tensors[n] for n in head_names(u.tensors)} for u in updates}}
        after = replace(after, heads=current)
        self._check_groups(after)
        before, groups = set(map(tuple, self._groups(state))), self._groups(after)
        answered = {update.client for update in updates}
        heads = dict(current)
        for members in groups:
            # In a group that has just been formed, the heads of all members are averaged for the first time.
            voters = [client for client in members if client in answered or tuple(members) not in before]
            if voters:
                weights = client_weights({client: after.clients[client] for client in voters}, self.weights)
                mean = self.mean([current[client] for client in voters], list(weights.values()))
                heads.update(dict.fromkeys(members, mean))
        return replace(after, heads=heads)

    def model(self, state: HeadState, client: ClientId) -> ClientModel:
        """The wrapped method's model with the head."""
        return self._with_head(state, client, self.method.model(state.inner, client))

    def admit(self, state: HeadState, client: ClientId, num_examples: int) -> HeadState:
        """Admits a late client, whose head must be in ``heads``, to the wrapped method."""
        inner = self.method.admit(state.inner, client, num_examples)
        if self.policy != "shared":
            return replace(state, inner=inner)
        heads = {**state.heads, client: dict(self.heads[client].tensors)}
        return replace(state, inner=inner, heads=heads, late=state.late | {client})

    def _with_head(self, state: HeadState, client: ClientId, model: ClientModel) -> ClientModel:
        # Heads that are not shared, or of clients that the state does not know, are the initial ones.
        head = state.heads.get(client, self.heads[client].tensors)
        return replace(model, tensors={**model.tensors, **head})

    def _groups(self, state: HeadState) -> list[list[ClientId]]:
        """Groups of clients whose heads are averaged: they share the method's group and one label list."""
        groups: dict[tuple[int, tuple[str, ...]], list[ClientId]] = {}
        for client in sorted(state.heads):
            key = (self.method.group(state.inner, client), self.heads[client].labels)
            groups.setdefault(key, []).append(client)
        return list(groups.values())

    def _check_groups(self, state: HeadState) -> None:
        """Refuses groups with different label lists, except for late clients, which must not end a running run."""
        firsts: dict[int, ClientId] = {}
        for client in sorted(state.heads):
            if client not in state.late:
                first = firsts.setdefault(self.method.group(state.inner, client), client)
                if self.heads[client].labels != self.heads[first].labels:
                    raise ConfigError(
                        f"head: 'shared' needs equal label lists within a group; client {first!r} has "
                        f"{list(self.heads[first].labels)}, client {client!r} has {list(self.heads[client].labels)}; "
                        "use head=local"
                    )


def with_head(
    method: Method,
    policy: HeadPolicy,
    heads: Mapping[ClientId, Head],
    weights: Weighting = "num_examples",
    mean: Mean = weighted_mean,
    *,
    rests: bool = False,
) -> WithHead:
    """Adds classifier heads under one policy to a method.

    Raises:
        ValueError: the policy does not exist.
    """
    if policy not in get_args(HeadPolicy):
        raise ValueError(f"policy must be one of {get_args(HeadPolicy)}, received {policy!r}")
    return WithHead(method, policy, heads, weights, mean, rests)


def _without_head(tensors: Tensors) -> dict[str, Any]:
    heads = head_names(tensors)
    return {name: tensor for name, tensor in tensors.items() if name not in heads}
