"""IFCA by hand: candidates from a partition, means over those who chose, and the engine's choice by train loss."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from contract.planted import CLIENTS, adapter, constant, train
from small import rounds_of, small_run

from fedlease.core.choices import CandidateStart
from fedlease.core.types import Budget, ClientUpdate, Tensors
from fedlease.data.load import load_federation
from fedlease.errors import RunFailedError
from fedlease.methods.ifca import IFCA, IFCAState
from fedlease.tasks import classification
from fedlease.use.open_run import OpenRun

BUDGET = Budget(2, 2)


def warmed(method: IFCA, values: dict[str, float], seed: int = 0) -> IFCAState:
    """After a warm-up in which every client's tensors are filled with one value."""
    state = method.init(adapter(), CLIENTS, seed)
    updates = []
    for client, rows in CLIENTS.items():
        task = method.task(state, client)
        assert task is not None
        updates.append(constant(train(client, task, rows), values[client]))
    return method.aggregate(state, updates)


def only_value(tensors: Tensors) -> float:
    values = torch.cat([tensor.flatten() for tensor in tensors.values()])
    assert torch.equal(values, values[:1].expand_as(values))
    return values[0].item()


def chosen(method: IFCA, state: IFCAState, client: str, choice: int, value: float) -> ClientUpdate:
    task = method.task(state, client)
    assert task is not None
    update = constant(train(client, task, CLIENTS[client]), value)
    return ClientUpdate(client, update.phase, update.round, update.num_examples, update.tensors, choice)


def test_candidates_are_the_means_of_a_partition_of_all_clients() -> None:
    # Powers of two: the sum of every subset tells the subset.
    values = {client: 2.0**i for i, client in enumerate(sorted(CLIENTS))}
    state = warmed(IFCA(BUDGET, num_candidates=3, weights="uniform"), values)
    sums = [2 * only_value(candidate) for candidate in state.candidates]  # two clients each
    assert sum(sums) == sum(values.values())
    assert all(bin(int(value)).count("1") == 2 for value in sums)
    assert len(set(sums)) == 3


def test_candidates_may_be_the_warm_ups_of_clients_drawn_at_random() -> None:
    values = {client: float(i) for i, client in enumerate(sorted(CLIENTS))}
    method = IFCA(BUDGET, num_candidates=3, candidate_start="clients")
    drawn = [only_value(candidate) for candidate in warmed(method, values).candidates]
    assert len(set(drawn)) == 3
    assert set(drawn) <= set(values.values())
    assert drawn == [only_value(candidate) for candidate in warmed(method, values).candidates]
    seeds = {tuple(only_value(c) for c in warmed(method, values, seed).candidates) for seed in range(8)}
    assert len(seeds) > 1


def test_with_a_candidate_for_every_client_both_starts_are_one() -> None:
    values = {client: float(i) for i, client in enumerate(sorted(CLIENTS))}
    count = len(CLIENTS)
    groups, clients = (
        [only_value(c) for c in warmed(IFCA(BUDGET, count, candidate_start=start), values).candidates]
        for start in get_args(CandidateStart)
    )
    assert groups == clients
    assert sorted(groups) == sorted(values.values())


def test_an_unknown_start_is_refused() -> None:
    start: Any = "farthest"
    with pytest.raises(ValueError, match="candidate_start must be groups or clients, received 'farthest'"):
        IFCA(BUDGET, candidate_start=start).init(adapter(), CLIENTS, 0)


def test_every_candidate_is_the_mean_of_those_who_chose_it() -> None:
    method = IFCA(BUDGET, num_candidates=3)
    state = warmed(method, dict.fromkeys(CLIENTS, 7.0))
    # a0 and a1 with 10 and 20 rows: (10 x 1 + 20 x 4) / 30 = 3; b2 alone: 5; candidate 1: nobody.
    updates = [chosen(method, state, *who) for who in (("a0", 0, 1.0), ("a1", 0, 4.0), ("b2", 2, 5.0))]
    after = method.aggregate(state, updates)
    assert [only_value(candidate) for candidate in after.candidates] == [3, 7, 5]
    assert after.choices == {"a0": 0, "a1": 0, "b2": 2}
    assert (method.group(after, "a0"), method.group(after, "b2")) == (0, 2)
    assert method.group(after, "b0") not in (0, 1, 2)
    assert only_value(method.model(after, "b2").tensors) == 5


def test_there_are_no_more_candidates_than_clients_and_at_least_one() -> None:
    state = warmed(IFCA(BUDGET, num_candidates=99), dict.fromkeys(CLIENTS, 1.0))
    assert len(state.candidates) == len(CLIENTS)
    with pytest.raises(ValueError, match="num_candidates must be at least 1, received 0"):
        IFCA(BUDGET, num_candidates=0).init(adapter(), CLIENTS, 0)


def test_without_any_warm_up_there_is_nothing_to_start_from() -> None:
    method = IFCA(BUDGET)
    state: Any = method.init(adapter(), CLIENTS, 0)
    state = method.aggregate(state, [], absent=set(CLIENTS))
    with pytest.raises(RunFailedError, match="candidates cannot be made"):
        method.aggregate(state, [], absent=set(CLIENTS))


def test_the_engine_takes_the_candidate_with_the_lowest_train_loss(tmp_path: Path) -> None:
    out = small_run(tmp_path / "r", method="ifca", baselines=[]).out
    run = OpenRun(out)
    state = run.saved.state
    federation = load_federation(run.settings.data, run.settings.seed)
    summary = json.loads((out / "summary.json").read_text())
    choices = []
    for client in run.clients:
        model = run.policy.model(state, client)
        private = run.model(client).tensors
        rows = run.encode(federation.clients[client].train)
        losses = []
        for candidate in model.candidates:
            run.resident.load(model, len(run.client(client).labels), {**private, **candidate})
            run.resident.model.eval()
            inputs, labels = classification.collate(rows, range(len(rows)), torch.device("cpu"))
            with torch.inference_mode():
                losses.append(classification.loss(run.resident.logits(inputs), labels).item())
        best = losses.index(min(losses))
        choices.append(best)
        assert summary["per_client"][client]["choice"] == best
        # What is used later is the candidate it was scored with.
        used = run.model(client)
        assert used.candidates == ()
        assert all(torch.equal(used.tensors[name], tensor) for name, tensor in model.candidates[best].items())
    assert len(set(choices)) > 1
    records = rounds_of(out)
    assert all("choice" not in row for row in records[0]["clients"].values())
    assert all(row["choice"] in range(4) for record in records[1:] for row in record["clients"].values())
