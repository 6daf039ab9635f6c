"""Liars among the clients: refused, named, and without effect on the clients beside them."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, made, train
from small import EIGHT, rounds_of, small_run

from fedlease.client.messages import Reply, Request, Train, Trained
from fedlease.client.worker import ClientWorker
from fedlease.core.screening import Bounds
from fedlease.core.types import Budget, ClientId, Tensors
from fedlease.data.federation import ClientCard
from fedlease.server.loop import RoundLoop
from fedlease.server.participation import Participation
from fedlease.server.screen import Screen
from fedlease.server.transport import Channel
from fedlease.storage.checkpoint import Checkpoint

LIAR = "a2"
Lie = Callable[[Tensors, Tensors], Tensors]
BOUNDS = Bounds(norm=10.0, copies=True)


@dataclass
class Planted:
    """Six clients in two groups that train without a model; one of them sends something else in some rounds."""

    lie: Lie
    rounds: frozenset[int]

    def clients(self) -> Mapping[ClientId, ClientCard]:
        return {c: ClientCard(c, c[0], ("no", "yes"), False, rows, 0, 1, "") for c, rows in CLIENTS.items()}

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        for client, request in requests.items():
            assert isinstance(request, Train)
            update = train(client, request.task, CLIENTS[client])
            if client == LIAR and request.task.round in self.rounds:
                start = {name: request.task.model.tensors[name] for name in update.tensors}
                update = replace(update, tensors=self.lie(start, update.tensors))
            yield client, Trained(update, None, 1, 0.0, 0.0)


def ran(out: Path, lie: Lie, *rounds: int, bounds: Bounds = BOUNDS, last: int = 2, **own: Any) -> Any:
    """The state after so many rounds, with a checkpoint and ``rounds.jsonl`` in the folder."""
    method = made("fedlease", Budget(1, last), min_silhouette=-1, **own)
    channel = Channel(Planted(lie, frozenset(rounds)))
    loop = RoundLoop("fedlease", method, channel, Participation(score_rounds=False), Checkpoint(out), (), 0)
    loop.screen = Screen(bounds)
    return loop.run(adapter())


def grown(factor: float) -> Lie:
    return lambda start, sent: {name: start[name] + factor * (sent[name] - start[name]) for name in sent}


def test_honest_clients_are_neither_refused_nor_named(tmp_path: Path) -> None:
    ran(tmp_path, grown(1))
    assert not any("suspects" in line or line["refused"] for line in rounds_of(tmp_path))


@pytest.mark.parametrize("factor", [100.0, -1e3])
def test_a_liar_that_goes_far_is_refused_by_name_and_changes_nothing_for_the_others(
    factor: float, tmp_path: Path
) -> None:
    # The same run without what the liar sent: it is refused for its names alone.
    silent = ran(tmp_path / "silent", lambda start, sent: {}, 0, 1, 2)
    found = ran(tmp_path / "liar", grown(factor), 0, 1, 2)
    assert found.assignment == silent.assignment and LIAR not in found.assignment
    for one, other in zip(found.experts, silent.experts, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    # Asked twice in the warm-up it joins late: alone in its steps it is compared with the warm-ups before.
    lines = rounds_of(tmp_path / "liar")
    assert all("times as long as the median" in line["refused"][LIAR] for line in lines) and len(lines) == 4
    assert lines[0]["suspects"] == {LIAR: [f"refused: {lines[0]['refused'][LIAR]}"]}


def test_a_replay_is_recognised_after_a_restart_too(tmp_path: Path) -> None:
    kept: list[Tensors] = []

    def replay(start: Tensors, sent: Tensors) -> Tensors:
        kept.append(sent)
        return kept[0]

    ran(tmp_path, replay, 1, last=1)
    # One round more on the same checkpoint, in a loop that remembers nothing itself.
    manifest = tmp_path / "state" / "manifest.json"
    assert json.loads(manifest.read_text())["seen"]
    reopened = Checkpoint(tmp_path)
    saved = reopened.load()
    assert saved is not None and {*saved.seen} == {*CLIENTS}
    reopened.clean()
    reopened.commit(replace(saved, finished=False))
    ran(tmp_path, replay, 2)
    last = rounds_of(tmp_path)[-1]
    assert last["round"] == 2
    assert last["refused"] == {LIAR: "it is the update that it sent in step 2 (bounds.copies)"}


def test_who_points_the_other_way_is_named_and_its_update_used(tmp_path: Path) -> None:
    ran(tmp_path, grown(-1.0), 1)
    line = rounds_of(tmp_path)[1]
    assert not line["refused"] and [*line["suspects"]] == [LIAR]
    assert line["suspects"][LIAR][0].startswith("its update points against the others of its cluster, cosine -1.00")


def test_or_refused_where_the_settings_say_so(tmp_path: Path) -> None:
    ran(tmp_path, grown(-1.0), 1, bounds=replace(BOUNDS, against="refuse"))
    assert "points against" in rounds_of(tmp_path)[1]["refused"][LIAR]


def test_whose_update_was_refused_for_its_direction_has_to_go_the_way_of_the_others_a_restart_between(
    tmp_path: Path,
) -> None:
    def lie(start: Tensors, own: Tensors) -> Tensors:
        """What is at right angles to the honest change, and a little against it."""
        if not turned:
            turned.append(start)
            return grown(-1.0)(start, own)
        changed = {name: own[name] - start[name] for name in own}
        length = sum(float(c.square().sum()) for c in changed.values()) ** 0.5
        side = {name: torch.ones_like(c) for name, c in changed.items()}
        dot = sum(float((side[name] * c).sum()) for name, c in changed.items())
        side = {name: side[name] - dot / length**2 * c for name, c in changed.items()}
        return {name: start[name] + side[name] - 0.01 * changed[name] for name in own}

    turned: list[Tensors] = []
    bounds = replace(BOUNDS, norm=None, against="refuse")
    ran(tmp_path, lie, 1, bounds=bounds, last=1)
    reopened = Checkpoint(tmp_path)
    saved = reopened.load()
    assert saved is not None
    reopened.clean()
    reopened.commit(replace(saved, finished=False))
    ran(tmp_path, lie, 2, bounds=bounds, last=3)
    first, second, honest = [line["refused"].get(LIAR, "") for line in rounds_of(tmp_path)[1:]]
    assert "cosine -1.00" in first and "cosine -0.0" in second and not honest
    # Who was not refused before may send the same.
    ran(tmp_path / "new", lie, 2, bounds=bounds, last=2)
    assert not any(line["refused"] for line in rounds_of(tmp_path / "new"))


def test_whose_warmup_was_refused_for_its_direction_stays_out_whatever_it_sends_later(tmp_path: Path) -> None:
    """Asked again it sends what is honest, alone in its step or beside others, before a restart and after it."""
    sent = iter([-6.0])

    def lie(start: Tensors, own: Tensors) -> Tensors:
        return grown(next(sent, 1.0))(start, own)

    bounds = replace(BOUNDS, against="refuse")
    ran(tmp_path, lie, 0, 1, 2, bounds=bounds, last=1)
    reopened = Checkpoint(tmp_path)
    saved = reopened.load()
    assert saved is not None
    reopened.clean()
    reopened.commit(replace(saved, finished=False))
    state = ran(tmp_path, lie, 0, 1, 2, bounds=bounds, last=2)
    first, *later = [line["refused"].get(LIAR, "") for line in rounds_of(tmp_path)]
    assert "points against" in first and len(later) == 3
    assert {*later} == {"its warm-up of step 1 pointed against others, so it takes no further part (bounds.against)"}
    assert LIAR not in state.assignment


def test_without_bounds_nothing_is_refused(tmp_path: Path) -> None:
    ran(tmp_path, grown(1e4), 1, 2, bounds=Bounds())
    assert not any("suspects" in line or line["refused"] for line in rounds_of(tmp_path))


@pytest.mark.parametrize("average", ["median", "geometric-median", "trimmed"])
def test_a_robust_mean_says_which_clusters_are_too_small_for_it(average: str, tmp_path: Path) -> None:
    own = {"average": average, "grouping": "random", "num_experts": 3, "trim": 0.4}
    state = ran(tmp_path, grown(1), last=0, **own)
    (said,) = [w for w in state.allocation.warnings if "outvotes" in w]
    assert said.startswith("fedlease.average outvotes a false update only in clusters of at least 3 clients, not in {")
    whole = ran(tmp_path / "whole", grown(1), last=0, average=average, trim=0.4)
    assert not any("outvotes" in w for w in whole.allocation.warnings), "two clusters of three"


def test_a_suspect_stands_in_summary_verdict_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, liar = ClientWorker.handle, "planted-0-1"

    def handle(self: ClientWorker, request: Any) -> Any:
        reply = honest(self, request)
        if self.client.data.id == liar and isinstance(reply, Trained) and request.task.round:
            tensors = {name: tensor + 50 for name, tensor in reply.update.tensors.items()}
            reply = replace(reply, update=replace(reply.update, tensors=tensors))
        return reply

    monkeypatch.setattr(ClientWorker, "handle", handle)
    result = small_run(tmp_path / "run", **EIGHT, rounds=1)
    (said,) = result.summary["suspects"][liar]
    assert said.startswith("round 1: refused: ") and said.endswith("(bounds.step)")
    warnings = json.dumps(result.verdict["warnings"])
    assert f"{liar} is a suspect" in warnings and f"--to 0 --without {liar}" in warnings
    assert "is a suspect" in (result.out / "report.html").read_text()
