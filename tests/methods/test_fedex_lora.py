"""FedEx-LoRA: whatever the clients have after training, everyone has its exact mean afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, SHAPES, adapter, made, train
from methods.kept import MARK, Down
from methods.sums import assert_exact_mean_after_every_round
from small import FinishedRuns, rounds_of, small_run, tensors_of

from fedlease.core.types import Budget
from fedlease.methods.base import State
from fedlease.server.events import StepFinished
from fedlease.use.open_run import OpenRun
from fedlease.use.run import resume

BUDGET = Budget(1, 3)


def test_everyone_has_the_exact_mean_of_products_after_every_round() -> None:
    assert_exact_mean_after_every_round(made("fedex-lora", BUDGET))


def test_a_and_b_are_those_of_fedit_and_what_is_added_is_frozen() -> None:
    method, fedit = made("fedex-lora", BUDGET), made("fedit", BUDGET)
    state, other = (m.init(adapter(), CLIENTS, 0) for m in (method, fedit))
    updates = [train(client, method.task(state, client), CLIENTS[client]) for client in CLIENTS]
    state, other = method.aggregate(state, updates), fedit.aggregate(other, updates)
    assert isinstance(state, State)
    assert all(torch.equal(state.adapter.tensors[n], t) for n, t in other.adapter.tensors.items())
    task = method.task(state, "a0")
    # Six clients of rank 2 lack 10 directions: more than twice the 4 that one module has, not those of the other.
    assert (task.model.spec.mixer, task.model.spec.num_experts) == ("sum", 6)
    assert task.upload == task.trainable == task.model.names("AB", 0)
    assert task.model.kept == task.model.tensors.keys() - task.upload


@pytest.mark.parametrize("name", ["fedex-lora", "flora", "fedmomentum"])
def test_a_client_is_sent_what_was_added_since_it_was_last_asked(name: str) -> None:
    method = made(name, BUDGET, **({"energy": 1.0} if name == "fedmomentum" else {}))
    state, down = method.init(adapter(), CLIENTS, 0), Down()
    one = 4 * 2 * sum(map(sum, SHAPES.values()))  # bytes of an adapter, or an expert, of rank 2
    # Of two clients of rank 2 two directions are lacking, two are beyond the adapter, or all four are stacked.
    new = 2 if name == "flora" else 1
    asked = [{"a0", "b0"}, {"a0"}, {"a0", "b0", "a1"}]
    for number, clients in enumerate(asked):
        tasks = {client: method.task(state, client) for client in ("a0", "b0", "a1")}
        sent = {client: down.bytes(client, tasks[client], number) for client in sorted(clients)}
        if number == 0:
            assert sent == {"a0": one, "b0": one}
        elif number == 1:
            assert sent == {"a0": (1 + new) * one}
        else:
            # A note for each of the matrices that a0 has: A and B, in both modules, of every expert.
            had = 2 * 2 * new * MARK
            assert sent == {"a0": (1 + new) * one + had, "b0": (1 + 2 * new) * one, "a1": (1 + 2 * new) * one}
        updates = [train(client, tasks[client], CLIENTS[client]) for client in ("a0", "b0")]
        state = method.aggregate(state, updates)


def test_a_run_sends_what_is_new_and_a_stopped_one_sends_no_more(finished: FinishedRuns, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "fedex-lora", "rounds": 2}
    out = finished(**settings).out
    down = [record["bytes_down"] for record in rounds_of(out)]
    # Four clients of one rank: three experts in every round, and then a note for A and B of three in every module.
    modules = len(OpenRun(out).model("planted-0-0").spec.target_modules)
    assert down == [down[0], 4 * down[0], 4 * down[0] + 4 * 3 * 2 * modules * MARK]

    def stop(event: object) -> None:
        if isinstance(event, StepFinished) and event.record["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "r", [stop], **settings)
    resume(tmp_path / "r", progress=False)
    assert [record["bytes_down"] for record in rounds_of(tmp_path / "r")] == down
    assert tensors_of(tmp_path / "r") == tensors_of(out)
