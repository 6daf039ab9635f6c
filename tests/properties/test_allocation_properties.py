"""Laws of the allocation, on random federations with and without structure."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import equations
from torch import Tensor

from fedlease.core.allocate import allocate, distances
from fedlease.core.placement import centroids, place

BMatrices = dict[str, dict[str, Tensor]]


@st.composite
def federations(draw: st.DrawFn, min_clients: int = 1) -> BMatrices:
    """1 to 12 clients around 1 to 4 random centres; some modules without direction, never a client's only one.

    So no two distances are equal, and there is one right clustering.
    """
    n = draw(st.integers(min_clients, 12))
    groups = draw(st.integers(1, 4))
    spread = draw(st.sampled_from([0.1, 0.7, 2.0]))
    modules = [f"m{m}" for m in range(draw(st.integers(1, 3)))]
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    centre = {(group, m): torch.randn(6, 2, generator=g) for group in range(groups) for m in modules}
    b: BMatrices = {}
    for client in range(n):
        group = draw(st.integers(0, groups - 1))
        b[f"c{client:02d}"] = {m: centre[group, m] + spread * torch.randn(6, 2, generator=g) for m in modules}
        if len(modules) > 1 and draw(st.integers(0, 9)) == 0:
            b[f"c{client:02d}"][modules[0]] = torch.zeros(6, 2)
    return b


def partition(assignment: dict[str, int]) -> set[frozenset[str]]:
    groups: dict[int, set[str]] = {}
    for client, expert in assignment.items():
        groups.setdefault(expert, set()).add(client)
    return set(map(frozenset, groups.values()))


@given(federations(), st.randoms())
def test_order_of_insertion_does_not_matter(b: BMatrices, random: object) -> None:
    names = list(b)
    random.shuffle(names)  # type: ignore[attr-defined]
    shuffled = {c: dict(reversed(b[c].items())) for c in names}
    one, two = allocate(b), allocate(shuffled)
    assert torch.equal(one.distances, two.distances)
    assert (one.clients, one.assignment, one.silhouettes, one.warnings) == (
        two.clients,
        two.assignment,
        two.silhouettes,
        two.warnings,
    )


@given(federations(), st.randoms())
def test_renaming_clients_renames_the_result(b: BMatrices, random: object) -> None:
    names = sorted(b)
    renamed = [f"r{i:02d}" for i in range(len(names))]
    random.shuffle(renamed)  # type: ignore[attr-defined]
    new = dict(zip(names, renamed, strict=True))
    one, two = allocate(b), allocate({new[c]: parts for c, parts in b.items()})
    assert one.num_experts == two.num_experts
    assert {frozenset(new[c] for c in group) for group in partition(one.assignment)} == partition(two.assignment)
    order = [two.clients.index(new[c]) for c in one.clients]
    torch.testing.assert_close(two.distances[order][:, order], one.distances, atol=1e-12, rtol=0)
    assert one.silhouettes.keys() == two.silhouettes.keys()
    assert all(math.isclose(one.silhouettes[k], two.silhouettes[k], abs_tol=1e-9) for k in one.silhouettes)


@given(federations(), st.data())
def test_scaling_a_client_changes_nothing(b: BMatrices, data: st.DataObject) -> None:
    # Powers of two scale a float exactly, so that even the last bit must stay.
    scales = {c: 2.0 ** data.draw(st.integers(-60, 60)) for c in b}
    one, two = allocate(b), allocate({c: {m: t * scales[c] for m, t in parts.items()} for c, parts in b.items()})
    assert torch.equal(one.distances, two.distances)
    assert one.assignment == two.assignment
    any_scale = data.draw(st.floats(1e-20, 1e20))
    first = min(b)
    three = distances({**b, first: {m: t.double() * any_scale for m, t in b[first].items()}})[1]
    torch.testing.assert_close(three, one.distances, atol=1e-12, rtol=0)


@given(federations())
def test_distances_equal_the_plain_loop(b: BMatrices) -> None:
    clients, d = distances(b)
    loop = {c: {m: t.double().flatten().tolist() for m, t in parts.items()} for c, parts in b.items()}
    expected = [[0.0 if i == j else equations.distance(loop[i], loop[j]) for j in clients] for i in clients]
    torch.testing.assert_close(d, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)
    assert torch.equal(d, d.T)


@given(federations(min_clients=3), st.integers(2, 8))
def test_silhouettes_and_their_argmax_equal_the_plain_loop(b: BMatrices, max_experts: int) -> None:
    allocation = allocate(b, max_experts=max_experts, min_silhouette=-1)
    d = allocation.distances.tolist()
    cuts = {k: equations.average_linkage(d, k) for k in range(2, min(max_experts, len(b) - 1) + 1)}
    scores = {k: equations.silhouette(d, clusters) for k, clusters in cuts.items()}
    assert allocation.silhouettes.keys() == scores.keys()
    assert all(math.isclose(allocation.silhouettes[k], scores[k], abs_tol=1e-9) for k in scores)
    best = max(sorted(scores), key=lambda k: scores[k])
    names = allocation.clients
    assert partition(allocation.assignment) == {frozenset(names[i] for i in cluster) for cluster in cuts[best]}


@given(federations(), st.sampled_from([-1.0, 0.0, 0.05, 0.5]))
def test_every_client_has_one_expert_and_every_expert_a_client(b: BMatrices, min_silhouette: float) -> None:
    allocation = allocate(b, min_silhouette=min_silhouette)
    assert allocation.assignment.keys() == b.keys()
    assert set(allocation.assignment.values()) == set(range(allocation.num_experts))
    assert 1 <= allocation.num_experts <= min(8, max(1, len(b) - 1))
    smallest = [min(allocation.members(e)) for e in range(allocation.num_experts)]
    assert smallest == sorted(smallest)
    if allocation.num_experts > 1 and min_silhouette > -1:
        assert allocation.silhouettes[allocation.num_experts] > min_silhouette


@settings(max_examples=50)
@given(federations())
def test_place_is_the_mean_distance_to_the_members(b: BMatrices) -> None:
    allocation = allocate(b)
    known = centroids(b, allocation.assignment)
    loop = {c: {m: t.double().flatten().tolist() for m, t in parts.items()} for c, parts in b.items()}
    for client in b:
        placement = place(b[client], known)
        for expert, got in enumerate(placement.distances):
            members = allocation.members(expert)
            mean = sum(equations.distance(loop[client], loop[j]) for j in members) / len(members)
            assert math.isclose(got, mean, abs_tol=1e-9)
        assert placement.distances[placement.expert] == min(placement.distances)
