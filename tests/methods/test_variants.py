"""FedLEASE's own variants on the planted federation: six clients in two groups, derived by hand."""

from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, constant, made, train, within
from small import small_run

from fedlease.core.codec import dumps, loads
from fedlease.core.types import Budget, TensorName
from fedlease.errors import ConfigError

BUDGET = Budget(2, 3)


def step(method: Any, state: Any, seed: int = 0) -> Any:
    tasks = {client: task for client in sorted(CLIENTS) if (task := method.task(state, client)) is not None}
    return method.aggregate(state, [train(client, task, CLIENTS[client], seed) for client, task in tasks.items()])


def allocated(**parameters: Any) -> tuple[Any, Any]:
    method = made("fedlease", BUDGET, **parameters)
    return method, step(method, method.init(adapter(), CLIENTS, 0))


def groups(state: Any) -> set[frozenset[str]]:
    return {frozenset(c for c, own in state.assignment.items() if own == e) for e in range(len(state.experts))}


def test_without_variants_the_planted_groups_are_found() -> None:
    _, state = allocated()
    assert groups(state) == {frozenset({"a0", "a1", "a2"}), frozenset({"b0", "b1", "b2"})}


@pytest.mark.parametrize("signal", ["A", "BA"])
@pytest.mark.parametrize("clustering", ["hierarchical", "spectral"])
def test_other_signals_and_clusterings_find_them_too(signal: str, clustering: str) -> None:
    # The planted groups move A and B alike.
    _, state = allocated(signal=signal, clustering=clustering)
    assert groups(state) == {frozenset({"a0", "a1", "a2"}), frozenset({"b0", "b1", "b2"})}


def test_the_signal_decides_when_a_and_b_disagree() -> None:
    # A moves with the letter, B with the digit.
    found = {}
    for signal in ("A", "B"):
        method = made("fedlease", BUDGET, signal=signal)
        state = method.init(adapter(), CLIENTS, 0)
        updates = []
        for client, rows in CLIENTS.items():
            task = method.task(state, client)
            assert task is not None
            a_like, b_like = train(client, task, rows), train({"0": "x"}.get(client[1], "y") + "0", task, rows)
            tensors = {n: (a_like if "/A/" in n else b_like).tensors[n] for n in a_like.tensors}
            updates.append(a_like.__class__(client, task.phase, task.round, rows, tensors))
        found[signal] = groups(method.aggregate(state, updates))
    assert found["A"] == {frozenset({"a0", "a1", "a2"}), frozenset({"b0", "b1", "b2"})}
    assert found["B"] == {frozenset({"a0", "b0"}), frozenset({"a1", "a2", "b1", "b2"})}


def test_where_the_mean_outvotes_liars_the_clustering_is_guarded_too() -> None:
    means = ("factors", "product", "trimmed", "median", "geometric-median")
    methods = {average: repr(made("fedlease", BUDGET, average=average)) for average in means}
    assert [average for average in means if "guarded=True" in methods[average]] == [*means[2:]]
    assert all("guarded=False" in methods[average] for average in means[:2])


def test_one_expert_per_client() -> None:
    method, state = allocated(grouping="clients")
    assert groups(state) == {frozenset({client}) for client in CLIENTS}
    assert method.model(state, "a0").spec.num_experts == len(CLIENTS)


def test_a_fixed_number_of_experts() -> None:
    for m in (1, 3, 6):
        _, state = allocated(num_experts=m)
        assert len(state.experts) == m


def test_random_groups_are_of_equal_size_and_follow_the_seed() -> None:
    found = set()
    for seed in range(6):
        method = made("fedlease", BUDGET, grouping="random", num_experts=3)
        states = [step(method, method.init(adapter(), CLIENTS, seed)) for _ in range(2)]
        assert groups(states[0]) == groups(states[1])
        assert {len(group) for group in groups(states[0])} == {2}
        found.add(frozenset(groups(states[0])))
    assert len(found) > 1


def test_a_given_assignment_is_kept() -> None:
    given = {"a0": 5, "a1": 5, "a2": 1, "b0": 1, "b1": 1, "b2": 9}
    _, state = allocated(grouping="given", assignment=given)
    assert groups(state) == {frozenset({"a0", "a1"}), frozenset({"a2", "b0", "b1"}), frozenset({"b2"})}


def test_own_experts_alone_have_no_router_and_send_what_fedit_sends() -> None:
    method, state = allocated(routing="own")
    assert len(state.experts) == 2
    task = method.task(state, "b1")
    assert task is not None
    assert task.model.spec.mixer == "none"
    assert {TensorName.parse(name).kind for name in task.upload} == {"A", "B"}
    own = state.experts[state.assignment["b1"]]
    assert all(torch.equal(task.model.tensors[name], own[name]) for name in own)
    assert not torch.equal(*(next(iter(expert.values())) for expert in state.experts))


def test_a_router_kept_by_the_client_is_private_and_stays_at_its_start() -> None:
    method, state = allocated(router="client")
    task = method.task(state, "a0")
    assert task is not None
    assert {TensorName.parse(name).kind for name in task.private} == {"G"}
    assert {TensorName.parse(name).kind for name in task.upload} == {"A", "B"}
    after = step(method, state)
    assert dumps(within(after, "routers")) == dumps(within(state, "routers"))
    assert dumps(after.experts) != dumps(state.experts)


def test_starting_from_the_own_warm_up_lasts_one_round() -> None:
    method = made("fedlease", BUDGET, expert_start="client")
    state = method.init(adapter(), CLIENTS, 0)
    updates = []
    for i, (client, rows) in enumerate(sorted(CLIENTS.items())):
        task = method.task(state, client)
        assert task is not None
        update = train(client, task, rows)
        # B tells the group, A the client.
        filled = constant(update, float(i)).tensors
        tensors = {n: filled[n] if "/A/" in n else update.tensors[n] for n in update.tensors}
        updates.append(update.__class__(client, task.phase, task.round, rows, tensors))
    state = method.aggregate(state, updates)
    for i, client in enumerate(sorted(CLIENTS)):
        task = method.task(state, client)
        assert task is not None
        own = task.model.spec.own
        name = str(TensorName("layer.0.query", "A", own))
        assert torch.equal(task.model.tensors[name], torch.full_like(task.model.tensors[name], float(i)))
        # Until it has trained, it is scored with the cluster's mean.
        assert not torch.equal(method.model(state, client).tensors[name], task.model.tensors[name])
    blob = dumps(state)
    assert dumps(loads(blob)) == blob
    one = method.task(state, "a0")
    assert one is not None
    state = method.aggregate(state, [train("a0", one, CLIENTS["a0"])], absent=set(CLIENTS) - {"a0"})
    assert within(state, "starts") == {}
    # The others were not asked in round 1: what they start from now is their expert, and no longer round 0.
    for client in CLIENTS:
        task = method.task(state, client)
        assert task is not None
        model = method.model(state, client)
        assert all(torch.equal(task.model.tensors[name], model.tensors[name]) for name in model.tensors)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"num_experts": 7}, r"fedlease.num_experts: must be in 1 \.\. 6, the number of clients, received 7"),
        (
            {"grouping": "given", "assignment": {"a0": 0}},
            r"names no group for clients \['a1', 'a2', 'b0', 'b1', 'b2'\]",
        ),
    ],
)
def test_groupings_that_do_not_fit_are_refused_before_training(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made("fedlease", BUDGET, **parameters).init(adapter(), CLIENTS, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"fedlease__routing": "own"},
        {"fedlease__router": "client", "fedlease__expert_start": "client"},
        {"fedlease__grouping": "clients"},
        {"fedlease__top_k": 1, "fedlease__renormalise": False},
    ],
)
def test_variants_run_to_the_end(changes: dict[str, Any], tmp_path: Any) -> None:
    result = small_run(tmp_path / "r", baselines=[], rounds=1, **changes)
    assert 0 <= result.summary["mean"] <= 1
    assert (tmp_path / "r" / "report.html").is_file()
