"""Costs by arithmetic: golden sizes of the paper, bytes by hand, and bytes as a real run counts them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import EVERY, FinishedRuns, small_run, small_settings

from fedlease.config.settings import Settings
from fedlease.core.adapters import initial_adapter
from fedlease.core.types import Budget
from fedlease.data.federation import ClientCard
from fedlease.methods.base import Terms
from fedlease.methods.registry import CENTRALISED, METHODS, make_method
from fedlease.runs.check import check_settings
from fedlease.runs.estimate import MethodEstimate, adapter_parameters, estimate_method, router_parameters
from fedlease.server.participation import Participation
from fedlease.use.run import RunResult

# Query and value of RoBERTa-large's 24 layers and of LLaMA-2-7B's 32: (in, out).
ROBERTA_LARGE = {f"{layer}.{name}": (1024, 1024) for layer in range(24) for name in ("query", "value")}
LLAMA_2_7B = {f"{layer}.{name}": (4096, 4096) for layer in range(32) for name in ("q", "v")}


ADAPTER = initial_adapter({"l.q": (3, 4)}, r=1, alpha=1, dropout=0, seed=0)
"""7 parameters; routers at M = 4 have (2 * 4 - 1) * 3 = 21."""


def cards(test_rows: int) -> dict[str, ClientCard]:
    return {f"c{i}": ClientCard(f"c{i}", "t", (), False, 10, 0, test_rows, "") for i in range(10)}


CLIENTS = cards(3)
"""10 clients with 100 train and 30 test rows in all."""


BUDGET = Budget(2, 3, 1)


def estimate(name: str, budget: Budget = BUDGET, sample: int | None = None, **changes: Any) -> MethodEstimate:
    """Without heads; groups of 4; a second per row."""
    arguments: dict[str, Any] = dict(seed=0, num_experts=4, seconds_per_row=1.0)
    clients = changes.pop("clients", CLIENTS)
    return estimate_method(
        name, make_method(name, Terms(budget)), ADAPTER, clients, Participation(sample), **{**arguments, **changes}
    )


UNSCORED = cards(0)


class TestParameters:
    def test_paper_sizes(self) -> None:
        assert adapter_parameters(ROBERTA_LARGE, 4) == 393_216
        assert [router_parameters(ROBERTA_LARGE, m) for m in (2, 4, 8)] == [147_456, 344_064, 737_280]
        assert adapter_parameters(LLAMA_2_7B, 8) == 4_194_304
        assert router_parameters(LLAMA_2_7B, 4) == 1_835_008

    def test_rectangular_modules_count_in_and_out(self) -> None:
        # r (in + out) = 2 * (3 + 5); G is (2 * 2 - 1) x in.
        assert adapter_parameters({"m": (3, 5)}, 2) == 16
        assert router_parameters({"m": (3, 5)}, 2) == 9

    def test_one_expert_needs_no_router(self) -> None:
        assert router_parameters({"m": (3, 5)}, 1) == 0


class TestBytes:
    def test_fedlease_sends_all_experts_down_and_one_up(self) -> None:
        cost = estimate("fedlease")
        # 4 bytes each. Warm-up: 10 adapters both ways; 3 rounds x 10 clients: own + router up, 4 experts + router down.
        assert cost.bytes_up == 4 * (10 * 7 + 3 * 10 * (7 + 21))
        assert cost.bytes_down == 4 * (10 * 7 + 3 * 10 * (4 * 7 + 21))

    def test_warm_up_asks_everyone_and_rounds_ask_the_sample(self) -> None:
        assert estimate("fedlease", sample=2).bytes_up == 4 * (10 * 7 + 3 * 2 * (7 + 21))

    def test_a_sample_larger_than_the_federation_is_the_federation(self) -> None:
        alone = replace(estimate("fedlease", sample=99), seconds=0)
        assert alone == replace(estimate("fedlease"), seconds=0)

    def test_fedit_spends_the_whole_budget_in_rounds(self) -> None:
        # T = 2 + 3 passes, one a round; and T = 2 + 3 x 2 = 8 passes, two a round.
        assert estimate("fedit").bytes_up == 4 * 5 * 10 * 7
        both = estimate("fedit", Budget(2, 3, 2))
        assert (both.bytes_up, both.bytes_down) == (4 * 4 * 10 * 7, 4 * 4 * 10 * 7)

    def test_half_an_adapter_goes_up_where_half_is_sent(self) -> None:
        # A has 3 parameters, B 4.
        assert estimate("fedsa-lora").bytes_up == 4 * 5 * 10 * 3
        assert estimate("ffa-lora").bytes_up == 4 * 5 * 10 * 4

    def test_ifca_sends_every_candidate_down(self) -> None:
        cost = estimate("ifca")
        assert cost.bytes_up == 4 * (10 * 7 + 3 * 10 * 7)
        assert cost.bytes_down == 4 * (10 * 7 + 3 * 10 * 4 * 7)

    def test_local_sends_nothing(self) -> None:
        cost = estimate("local")
        assert (cost.bytes_up, cost.bytes_down) == (0, 0)


class TestSeconds:
    @pytest.mark.parametrize("name", sorted(METHODS.keys() - {"ifca", "feddpa"}))
    def test_methods_compared_train_the_same_passes_where_clients_are_sampled(self, name: str) -> None:
        # Everyone for E = 2 passes over 100 rows, with a warm-up or without; then 3 rounds of 2 clients of 10 rows.
        assert estimate(name, sample=2, clients=UNSCORED).seconds == 200 + 60

    @pytest.mark.parametrize("name", sorted(METHODS.keys() - {"ifca"}))
    def test_methods_compared_train_the_same_passes(self, name: str) -> None:
        # T = 2 + 3 x 1 passes over 100 rows, one second a row.
        # FedDPA's local adapter takes as many again.
        assert estimate(name, clients=UNSCORED).seconds == (1000 if name == "feddpa" else 500)

    def test_choosing_is_counted(self) -> None:
        # Each of 4 candidates scores all 100 train rows in 3 rounds and at the end.
        assert estimate("ifca", clients=UNSCORED).seconds == pytest.approx(500 + 4 * 100 * 4 / 3)

    def test_a_warm_up_done_before_is_not_done_again(self) -> None:
        done: set[tuple[object, ...]] = set()
        estimate("fedlease", done=done)
        alone, shared = estimate("local"), estimate("local", done=done)
        # Two passes over 100 rows, and scoring the 30 test rows of the untrained model.
        assert alone.seconds - shared.seconds == pytest.approx(2 * 100 + 30 / 3)
        assert estimate("fedit", done=done) == estimate("fedit")

    def test_scoring_is_a_third_of_training(self) -> None:
        # local: scored on receipt of warm-up and of 3 rounds, and at the end; 30 test rows, a third of a second each.
        without, scored = estimate("local", clients=UNSCORED), estimate("local")
        assert scored.seconds - without.seconds == pytest.approx(5 * 30 / 3)

    def test_experts_are_scored_once_more_on_their_own(self) -> None:
        mixed, single = (estimate("fedlease", num_experts=m).seconds for m in (4, 1))
        assert mixed - single == pytest.approx(30 / 3)


def check_bytes(given: Settings, result: RunResult) -> None:
    """Every method's estimate is what its run counted."""
    experts = result.summary["num_experts"]
    report = check_settings(given.model_copy(update={"max_experts": max(2, experts)}))
    for cost in report.estimates:
        summary = result.summaries[cost.method]
        if cost.method != "fedlease" or experts == report.assumed_experts:
            assert (cost.bytes_up, cost.bytes_down) == (summary["bytes_up"], summary["bytes_down"]), cost.method
    costs = {cost.method: cost for cost in report.estimates}
    assert costs.keys() == result.summaries.keys()
    assert (costs[CENTRALISED].bytes_up, costs[CENTRALISED].bytes_down) == (0, 0)


def test_estimated_bytes_are_the_bytes_a_run_counts(finished: FinishedRuns) -> None:
    check_bytes(small_settings(**EVERY), finished(**EVERY))


def test_where_clients_are_sampled_and_rounds_differ_too(tmp_path: Path) -> None:
    few = {"baselines": ["fedsvd", "feddpa", "ifca", "rolora", CENTRALISED], "clients_per_round": 3, "rounds": 3}
    check_bytes(small_settings(**few), small_run(tmp_path / "run", **few))
