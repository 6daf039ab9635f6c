"""HiLoRA: tier after tier, each on top of those above, which stay as they are."""

from typing import Any

import torch
from contract.planted import CLIENTS, adapter, made, train
from methods.sums import whole_update

from fedlease.core.types import Budget, LocalTerm

BUDGET = Budget(2, 8)
"""Ten rounds: four for the root, four for clusters, two for leaves."""


def played(rounds: int, **parameters: Any) -> tuple[Any, list[Any]]:
    method = made("hilora", BUDGET, **parameters)
    states = [method.init(adapter(), CLIENTS, 0)]
    for _ in range(rounds):
        tasks = {client: method.task(states[-1], client) for client in CLIENTS}
        states.append(method.aggregate(states[-1], [train(c, task, CLIENTS[c]) for c, task in tasks.items()]))
    return method, states


def test_rounds_go_to_root_clusters_and_leaves_by_their_shares() -> None:
    method, states = played(9)
    tasks = [method.task(state, "a0") for state in states]
    assert [task.phase for task in tasks] == ["root"] * 4 + ["cluster"] * 4 + ["leaf"] * 2
    for task in tasks:
        tier = task.model.spec.num_experts - 1
        names = task.model.names("AB", tier)
        assert task.trainable == names and task.upload == (names if tier < 2 else frozenset())
        assert task.term == (LocalTerm(apart=0.1) if tier else None)
    # Never fewer for the root than replace a warm-up, which asks everyone; nothing is left where all are.
    assert [made("hilora", BUDGET, root=0.0, cluster=0.1).tier(n) for n in range(1, 11)] == [0, 0, 1, *[2] * 7]
    assert made("hilora", Budget(2, 0)).tier(2) == 0


def test_the_planted_groups_are_the_clusters_and_each_trains_its_own_on_the_root_of_all() -> None:
    method, states = played(9)
    begun, end = states[4], states[8]
    assert begun.allocation.assignment == {client: "ab".index(client[0]) for client in CLIENTS}
    assert all(torch.equal(end.adapter.tensors[n], tensor) for n, tensor in begun.adapter.tensors.items()), "the root"
    assert all(torch.equal(end.clusters[0][n], states[9].clusters[0][n]) for n in end.clusters[0]), "clusters of leaves"
    # One task of cluster 0, by hand: weights 1/6, 2/6 and 3/6 of the rows 10, 20 and 30.
    updates = [train(c, method.task(begun, c), CLIENTS[c]) for c in CLIENTS]
    name = "layer.0.query/B/1"
    mean = sum(CLIENTS[u.client] / 60 * u.tensors[name] for u in updates if u.client[0] == "a")
    torch.testing.assert_close(method.aggregate(begun, updates).clusters[0]["layer.0.query/B/0"], mean)


def test_a_tier_adds_nothing_before_it_is_trained() -> None:
    method, states = played(8)
    root, clusters, leaves = (whole_update(method.model(states[n], "a0")) for n in (4, 8, 8))
    for module, change in whole_update(states[4].adapter).items():
        torch.testing.assert_close(root[module], change)
        torch.testing.assert_close(leaves[module], clusters[module])


def test_a_late_client_trains_the_root_alone_once_which_moves_nothing_but_places_it() -> None:
    method, states = played(5)
    state = method.admit(states[5], "b9", 20)
    task = method.task(state, "b9")
    assert (task.phase, task.model.spec.num_experts, task.term) == ("root", 1, None)
    after = method.aggregate(state, [train("b9", task, 20)])
    assert after.assignment["b9"] == after.assignment["b0"] != after.assignment["a0"]
    assert all(torch.equal(after.adapter.tensors[n], t) for n, t in state.adapter.tensors.items())
    assert method.task(after, "b9").phase == "cluster"
