"""Differences in few bits: rounding is made up for, both ends agree on what the client has, nothing is sent twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_run, small_settings, tensors_of

from fedlease.client.messages import Refused, Score, Scored, Train, Trained
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, Stage, Tensors
from fedlease.errors import ConfigError
from fedlease.privacy.memory import Memory
from fedlease.runs.check import check_settings
from fedlease.server.filters import Filtered, as_received, as_sent, make_filters
from fedlease.storage.checkpoint import Checkpoint
from fedlease.use.run import resume

SPEC = AdapterSpec(r=2, alpha=1, dropout=0, target_modules=("m",))
NAMES = frozenset({"m/A/0", "m/B/0"})
START = {"m/A/0": torch.randn(2, 30, generator=torch.Generator().manual_seed(1)), "m/B/0": torch.zeros(40, 2)}
INT4: dict[str, Any] = {"filters": ["int4"], "data.train_rows": 12}


def train(tensors: Tensors, step: int = 1, accepted: int | None = None) -> Train:
    task = ClientTask("federated", step, ClientModel(SPEC, tensors), (Stage(NAMES, 1),), NAMES)
    return Train("fedit", step, task, accepted)


class Node:
    """A client that adds ``learns`` to what it receives, with the memory that a node has."""

    def __init__(self, name: str = "int4") -> None:
        self.filters, self.memory = make_filters([name], START), Memory()
        self.learns: Tensors = {name: torch.zeros_like(tensor) for name, tensor in START.items()}
        self.sent, self.used, self.answer = list[Any](), dict[str, torch.Tensor](), True

    def clients(self) -> Any:
        return {}

    def send(self, requests: Any) -> Any:
        from fedlease.client.messages import Lacks
        from fedlease.privacy.packing import LacksBaseError

        for client, request in requests.items():
            self.sent.append(request)
            try:
                received, memory = as_received(request, self.filters, self.memory)
            except LacksBaseError:
                yield client, Lacks()
                continue
            self.used, self.memory = dict(received.model.tensors), memory
            if isinstance(request, Score):
                yield client, Scored(0.5)
                continue
            tensors = {name: tensor + self.learns[name] for name, tensor in self.used.items()}
            reply = Trained(ClientUpdate(client, "federated", request.task.round, 3, tensors), None, 0, 0, 0)
            sent, self.memory = as_sent(received, reply, self.filters, self.memory)
            yield client, sent if self.answer else Refused("lost on the way")


def bytes_of(request: Any) -> int:
    return sum(tensor.nbytes for tensor in request.model.tensors.values())


def test_the_common_start_is_known_and_is_not_sent() -> None:
    node = Node()
    ((_, reply),) = Filtered(node, node.filters).send({"c": train(START)})
    assert bytes_of(node.sent[0]) < 50 and all(torch.equal(node.used[name], START[name]) for name in NAMES)
    assert all(torch.equal(reply.update.tensors[name], START[name]) for name in NAMES)


def test_what_rounding_takes_on_the_way_up_comes_with_the_next_updates() -> None:
    """What has arrived after T updates lies within half a level of all that was learnt: the error does not grow."""
    node = Node()
    server, generator = Filtered(node, node.filters), torch.Generator().manual_seed(2)
    learnt, arrived = torch.zeros(40, 2), torch.zeros(40, 2)
    for step in range(1, 9):
        change = torch.rand(40, 2, generator=generator) + 0.5
        node.learns = {**node.learns, "m/B/0": change}
        ((_, reply),) = server.send({"c": train(START, step, step - 1 or None)})
        learnt, arrived = learnt + change, arrived + reply.update.tensors["m/B/0"]
        # Half a level is a sixth of what is packed, 1.5 and what was left at most: L = (1.5 + L) / 6 is 0.3.
        assert float((learnt - arrived).abs().max()) <= 0.3 + 1e-6
    assert float((learnt - arrived).abs().max()) > 0


def test_an_update_that_was_not_used_leaves_the_residual_as_it_was() -> None:
    node = Node()
    server = Filtered(node, node.filters)
    node.learns = {**node.learns, "m/B/0": torch.linspace(0, 1, 80).reshape(40, 2)}
    list(server.send({"c": train(START, 1)}))
    list(server.send({"c": train(START, 2, 1)}))
    before = node.memory.accepted(1).residual[SPEC.fingerprint()]["m/B/0"]
    node.learns = {**node.learns, "m/B/0": torch.full((40, 2), float("nan"))}
    ((_, reply),) = server.send({"c": train(START, 3, 1)})
    assert isinstance(reply, Refused) and "m/B/0: a scale must be in 0 .. 1e+06" in reply.reason
    assert torch.equal(node.memory.accepted(1).residual[SPEC.fingerprint()]["m/B/0"], before)
    assert not node.memory.accepted(None).residual


@pytest.mark.parametrize("name", ["int4", "int8", "changed"])
def test_a_client_that_has_lost_what_it_had_is_sent_the_same_values_whole(name: str) -> None:
    models = [{n: t + step * torch.sin(t * 9 + step) for n, t in START.items()} for step in range(4)]
    models[2]["m/B/0"] = models[1]["m/B/0"]
    used: dict[bool, list[Tensors]] = {}
    for forgets in (False, True):
        node = Node(name)
        server = Filtered(node, node.filters)
        used[forgets] = []
        for step, model in enumerate(models, 1):
            if forgets and step == 3:
                node.memory = replace(node.memory, received={})
            ((_, reply),) = server.send({"c": train(model, step, step - 1 or None)})
            assert isinstance(reply, Trained)
            used[forgets].append(node.used)
        assert len(node.sent) == 4 + forgets
    for one, other in zip(used[False], used[True], strict=True):
        assert all(torch.equal(one[n], other[n]) for n in NAMES)
    # On the way down the error is that of the last difference alone, not of all that came before.
    spread = (models[3]["m/A/0"] - models[2]["m/A/0"]).abs().max() * (1 if name == "int4" else 0.1)
    assert float((used[False][3]["m/A/0"] - models[3]["m/A/0"]).abs().max()) <= spread / 6


def test_a_lost_reply_and_a_score_in_between_leave_both_ends_agreed() -> None:
    node = Node()
    server = Filtered(node, node.filters)
    list(server.send({"c": train(START, 1)}))
    node.answer = False
    list(server.send({"c": train({n: t + 1 for n, t in START.items()}, 2, 1)}))
    node.answer = True
    ((_, scored),) = server.send({"c": Score("fedit", ClientModel(SPEC, {n: t + 2 for n, t in START.items()}), 1)})
    ((_, trained),) = server.send({"c": train({n: t + 3 for n, t in START.items()}, 3, 1)})
    assert isinstance(scored, Scored) and isinstance(trained, Trained)
    assert all(torch.allclose(node.used[n], START[n] + 3, atol=1 / 7) for n in NAMES)


def test_a_hostile_update_is_refused_with_its_tensor() -> None:
    class Hostile(Node):
        def send(self, requests: Any) -> Any:
            for client, reply in super().send(requests):
                yield client, replace(reply, update=replace(reply.update, tensors=self.tensors))

    node = Hostile()
    update = ClientUpdate("c", "federated", 1, 3, START)
    packed = node.filters[0].upload(train(START).task, update, {})[0].tensors
    for tensors, why in (
        ({"m/A/0": START["m/A/0"]}, "m/A/0: it must be a packed tensor"),
        ({"x": START["m/A/0"]}, "'x' was not requested"),
        ({"m/B/0": packed["m/A/0"]}, "m/B/0: has shape [2, 30], expected [40, 2]"),
    ):
        node.tensors = tensors  # type: ignore[attr-defined]
        ((_, reply),) = Filtered(node, node.filters).send({"c": train(START)})
        assert isinstance(reply, Refused) and reply.reason.startswith(f"its update cannot be read: {why}")


def test_a_node_unpacks_no_more_than_its_bound() -> None:
    from fedlease.privacy.packing import PackingError

    node = Node()
    list(Filtered(node, node.filters).send({"c": train({n: t + 1 for n, t in START.items()})}))
    with pytest.raises(PackingError, match="it would unpack to 80 values, at most 65 are expected"):
        as_received(node.sent[0], make_filters(["int4"], START, most=500), Memory())


@pytest.mark.parametrize("names", [["int4", "bfloat16"], ["changed", "int8"]])
def test_what_builds_on_what_arrived_comes_last(names: list[str]) -> None:
    assert len(make_filters(["bfloat16", "int4"])) == 2
    with pytest.raises(
        ConfigError,
        match=rf"filters: only the last filter may be one of changed, int8, int4, .*received .* with '{names[0]}'",
    ):
        make_filters(names)


def test_a_run_keeps_its_groups_and_is_the_same_resumed_over_flower_and_by_estimate(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from flower.nodes import Stopped, comparable, over_memory, stop_after

    whole = small_run(tmp_path / "whole", **{**INT4, "filters": []}).summary
    run = small_run(tmp_path / "run", **INT4)
    assert run.summary["assignment"] == whole["assignment"]
    with pytest.raises(Stopped):
        small_run(tmp_path / "again", [stop_after(1)], **INT4)
    assert Checkpoint(tmp_path / "again").load().residuals.keys() == run.summary["assignment"].keys()  # type: ignore[union-attr]
    resume(tmp_path / "again")
    assert tensors_of(tmp_path / "again") == tensors_of(tmp_path / "run")
    there, _ = over_memory(small_settings(**INT4), tmp_path / "there")
    assert tensors_of(tmp_path / "there")["state"] == tensors_of(tmp_path / "run")["state"]
    assert comparable(there["fedlease"]) == comparable(run.summary)
    # A node that lacked something would be sent it whole; markers of equal tensors travel once.
    assert 0.9 * run.summary["bytes_down"] < there["fedlease"]["bytes_down"] <= run.summary["bytes_down"]
    (estimate,) = check_settings(small_settings(**INT4, max_experts=max(2, run.summary["num_experts"]))).estimates
    for found, expected in ((estimate.bytes_up, "bytes_up"), (estimate.bytes_down, "bytes_down")):
        # Few steps change values by few different amounts, which Huffman's code says in less than the made-up ones.
        assert found == pytest.approx(run.summary[expected], rel=0.2)
