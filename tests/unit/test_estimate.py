"""Costs by arithmetic: golden sizes of the paper, bytes by hand, and bytes as a real run counts them."""

from pathlib import Path
from typing import Any

import pytest
from engines.small import small_run, small_settings

from fedlease.config import Settings, resolve
from fedlease.estimate import MethodEstimate, adapter_parameters, estimate_method, router_parameters

# Query and value of RoBERTa-large's 24 layers and of LLaMA-2-7B's 32: (in, out).
ROBERTA_LARGE = {f"{layer}.{name}": (1024, 1024) for layer in range(24) for name in ("query", "value")}
LLAMA_2_7B = {f"{layer}.{name}": (4096, 4096) for layer in range(32) for name in ("q", "v")}


def settings(**changes: Any) -> Settings:
    """Warm-up of 2 epochs, 3 rounds of 1 epoch."""
    values = {"warmup.epochs": 2, "rounds": 3, "train.local_epochs": 1}
    return resolve(preset="smoke", overrides={**values, **{k.replace("__", "."): v for k, v in changes.items()}})


def estimate(method: str, given: Settings, **changes: Any) -> MethodEstimate:
    """10 clients with 100 train and 30 test rows in all; an adapter of 7 parameters, routers of 5; M = 4."""
    arguments: dict[str, Any] = dict(
        num_clients=10, train_rows=100, test_rows=30, adapter=7, router=5, num_experts=4, seconds_per_row=1.0
    )
    return estimate_method(method, given, **{**arguments, "shared_warmup": False, **changes})


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
        cost = estimate("fedlease", settings())
        # 4 bytes each. Warm-up: 10 adapters both ways; 3 rounds x 10 clients: own + router up, 4 experts + router down.
        assert cost.bytes_up == 4 * (10 * 7 + 3 * 10 * (7 + 5))
        assert cost.bytes_down == 4 * (10 * 7 + 3 * 10 * (4 * 7 + 5))

    def test_warm_up_asks_everyone_and_rounds_ask_the_sample(self) -> None:
        cost = estimate("fedlease", settings(clients_per_round=2))
        assert cost.bytes_up == 4 * (10 * 7 + 3 * 2 * (7 + 5))

    def test_a_sample_larger_than_the_federation_is_the_federation(self) -> None:
        assert estimate("fedlease", settings(clients_per_round=99)) == estimate("fedlease", settings())

    def test_fedit_spends_the_whole_budget_in_rounds(self) -> None:
        # T = 2 + 3 passes, one a round; and T = 2 + 3 x 2 = 8 passes, two a round.
        assert estimate("fedit", settings()).bytes_up == 4 * 5 * 10 * 7
        both = estimate("fedit", settings(train__local_epochs=2))
        assert (both.bytes_up, both.bytes_down) == (4 * 4 * 10 * 7, 4 * 4 * 10 * 7)

    def test_local_sends_nothing(self) -> None:
        cost = estimate("local", settings())
        assert (cost.bytes_up, cost.bytes_down) == (0, 0)


class TestSeconds:
    def test_methods_compared_train_the_same_passes(self) -> None:
        free = {"test_rows": 0}
        seconds = {name: estimate(name, settings(), **free).seconds for name in ("fedlease", "fedit", "local")}
        # T = 2 + 3 x 1 passes over 100 rows, one second a row.
        assert seconds == {"fedlease": 500.0, "fedit": 500.0, "local": 500.0}

    def test_a_warm_up_done_before_is_not_done_again(self) -> None:
        alone, shared = (estimate("local", settings(), test_rows=0, shared_warmup=flag) for flag in (False, True))
        assert alone.seconds - shared.seconds == 2 * 100

    def test_scoring_is_a_third_of_training(self) -> None:
        # local: scored on receipt of warm-up and of 3 rounds, and at the end; 30 test rows, a third of a second each.
        without, scored = estimate("local", settings(), test_rows=0), estimate("local", settings())
        assert scored.seconds - without.seconds == pytest.approx(5 * 30 / 3)

    def test_experts_are_scored_once_more_on_their_own(self) -> None:
        mixed, single = (estimate("fedlease", settings(), num_experts=m).seconds for m in (4, 1))
        assert mixed - single == pytest.approx(30 / 3)


@pytest.mark.parametrize("sample", [None, 3])
def test_estimated_bytes_are_the_bytes_a_run_counts(tmp_path: Path, sample: int | None) -> None:
    given = small_settings(clients_per_round=sample, baselines=["fedit", "local"])
    result = small_run(tmp_path / "run", clients_per_round=sample, baselines=["fedit", "local"])
    experts = result.summary["num_experts"]
    assert experts > 1
    model = result.load(next(iter(result.summary["per_client"]))).base_model.model
    config = model.config
    width, layers = config.hidden_size, config.num_hidden_layers
    shapes = {f"{layer}.{name}": (width, width) for layer in range(layers) for name in ("query", "value")}
    for method, summary in result.summaries.items():
        cost = estimate(
            method,
            given,
            num_clients=summary["num_clients"],
            adapter=adapter_parameters(shapes, given.lora.r),
            router=router_parameters(shapes, experts),
            num_experts=experts,
        )
        assert (cost.bytes_up, cost.bytes_down) == (summary["bytes_up"], summary["bytes_down"]), method
