"""More clients than are compared in all pairs find the groups of all pairs, at a cost that follows their number."""

from collections import Counter

import numpy as np
import pytest
import torch
from planted_halves import uploads

from fedlease.core import merging_many
from fedlease.core.distances import cosines_between, cosines_by_row, product_cosines
from fedlease.core.merging import merge
from fedlease.core.merging_many import group
from fedlease.core.reliability import agreement


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ALL_PAIRS": 10, "CORE": 16, "KNOWN": 6, "BATCH": 7}.items():
        monkeypatch.setattr(merging_many, name, value)


def test_up_to_the_bound_all_pairs_decide(small: None) -> None:
    clients = uploads({"a": 5, "b": 5}, noise=(0.3, 1.5))
    some, every = group(clients), merge(agreement(clients))
    assert some.groups == every.groups and some.evidence == every.evidence
    assert some.corrected is not None and np.array_equal(some.corrected, every.corrected)


def test_beyond_it_clients_find_the_groups_that_all_pairs_find(small: None) -> None:
    """Two large tasks, one of three clients, of whom the first core need hold none, and two of one client."""
    sizes = {"a": 25, "b": 20, "c": 3, "d": 1, "e": 1}
    clients = uploads(sizes, noise=(0.3, 1.5))
    found = group(clients)
    assert found.corrected is None and found.error is None
    labels = {task: {found.groups[c] for c in clients if c[0] == task} for task in sizes}
    assert all(len(own) == 1 for own in labels.values()), labels
    assert len(set.union(*labels.values())) == len(sizes), "no two tasks have one group"
    assert not found.unsure
    # s^2 = 1 / (1 + noise^2), with noise from .3 to 1.5 over the clients in their order.
    true = {c: 1 / (1 + (0.3 + 1.2 * place / 49) ** 2) for place, c in enumerate(clients)}
    s2 = dict(zip(sorted(clients), found.reliability.tolist(), strict=True))
    assert max(abs(s2[client] - true[client]) for client in clients) < 0.12


@pytest.mark.parametrize("core", [False, True])
def test_rested_warmups_of_much_noise_are_grouped(core: bool, request: pytest.FixtureRequest) -> None:
    """Reliabilities from .2 to .06."""
    if core:
        request.getfixturevalue("small")
    clients = uploads({"a": 8, "b": 6, "c": 6}, noise=(2.0, 4.0), rested=True)
    found = group(clients, rested=True)
    groups = {task: {found.groups[c] for c in clients if c[0] == task} for task in "abc"}
    assert all(len(own) == 1 for own in groups.values()) and len(set.union(*groups.values())) == 3
    assert not found.unsure


def test_pairs_are_found_by_two_modules_of_which_one_knows_the_task() -> None:
    """The jackknife over two modules takes their difference for an error; of noise that is known, none is left."""
    loud, clear = (uploads({"a": 2, "b": 2}, noise=(noise, noise), rested=True) for noise in (12.0, 1.0))
    clients = {
        client: {name: tensor for name, tensor in loud[client].items() if name.startswith("layer.0")}
        | {name: tensor for name, tensor in clear[client].items() if name.startswith("layer.1")}
        for client in loud
    }
    found = group(clients, rested=True)
    assert found.groups["a0"] == found.groups["a1"] != found.groups["b0"] == found.groups["b1"]
    assert not found.unsure and set(group(clients).unsure) == clients.keys()


def test_who_has_learnt_nothing_stands_alone_and_is_unsure(small: None) -> None:
    clients = {**uploads({"a": 20}, noise=(0.3, 1.0)), **uploads({"z": 3}, noise=(50.0, 50.0))}
    found = group(clients)
    assert set(found.unsure) == {"z0", "z1", "z2"}
    assert Counter(Counter(found.groups.values()).values()) == {20: 1, 1: 3}


def test_clients_are_compared_with_a_core_and_not_with_each_other(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[int] = []
    between = merging_many.cosines_between
    monkeypatch.setattr(
        merging_many, "cosines_between", lambda b, a, *core: pairs.append(len(b) * len(core[0])) or between(b, a, *core)
    )
    counted = []
    for count in (40, 80):
        pairs.clear()
        group(uploads({"a": count // 2, "b": count // 2}, noise=(0.3, 0.8)))
        counted.append(sum(pairs) // 6)  # modules
    # One core of 16: all others' halves with its halves, 2 (N - 16) x 32.
    assert counted == [2 * 24 * 32, 2 * 64 * 32]


@pytest.mark.parametrize("ranks", [(4, 4), (4, 2)])
def test_cosines_with_others_are_those_of_all_pairs(ranks: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(5, 4, 6, generator=draw, dtype=torch.float64)
    b = torch.randn(5, 7, 4, generator=draw, dtype=torch.float64)
    a[1, ranks[1] :] = 0  # padding of a client of a lower rank
    b[3] = 0
    named = {str(i): {"m": b[i]} for i in range(5)}, {str(i): {"m": a[i]} for i in range(5)}
    (every,) = product_cosines(*named)
    torch.testing.assert_close(cosines_between(b[:3], a[:3], b[3:], a[3:]), every[:3, 3:])
    torch.testing.assert_close(
        cosines_by_row(b[[0, 2, 3]], a[[0, 2, 3]], b[[4, 3, 3]], a[[4, 3, 3]]), every[[0, 2, 3], [4, 3, 3]]
    )
