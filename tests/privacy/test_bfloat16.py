"""A filter that sends bfloat16: half the bytes both ways, the same result over every transport, close to float32's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_run, small_settings, tensors_of

from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, Stage
from fedlease.errors import ConfigError
from fedlease.privacy.bfloat16 import Bfloat16
from fedlease.privacy.differences import Differences
from fedlease.runs.check import check_settings
from fedlease.server.filters import FILTERS, make_filters

SETTINGS: dict[str, Any] = {"filters": ["bfloat16"], "rounds": 1, "data.train_rows": 12}


def test_values_travel_in_half_the_bytes_and_come_back_within_one_part_in_256() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    one = Bfloat16()
    model = ClientModel(
        AdapterSpec(r=1, alpha=1, dropout=0, target_modules=("m",)), {"m/A/0": values}, ({"m/A/0": -values},)
    )
    sent = one.broadcast({"c": model}, {}, {"c": ()})[0]["c"]
    received, _ = one.received(sent, {}, ())
    assert sent.tensors["m/A/0"].nbytes * 2 == values.nbytes and sent.candidates[0]["m/A/0"].dtype == torch.bfloat16
    assert received.tensors["m/A/0"].dtype == received.candidates[0]["m/A/0"].dtype == torch.float32
    assert bool(((received.tensors["m/A/0"] - values).abs() <= values.abs() / 256).all())
    task = ClientTask("federated", 1, model, (Stage(frozenset({"m/A/0"}), 1),), frozenset({"m/A/0"}))
    update = ClientUpdate("c", "federated", 1, 3, {"m/A/0": values})
    travels, _ = one.upload(task, update, {})
    assert travels.tensors["m/A/0"].dtype == torch.bfloat16 and update.tensors["m/A/0"].dtype == torch.float32
    assert torch.equal(one.collected(task, travels).tensors["m/A/0"], received.tensors["m/A/0"])


def test_a_run_moves_half_the_bytes_and_its_result_is_close(tmp_path: Path) -> None:
    plain = small_run(tmp_path / "plain", **{**SETTINGS, "filters": []}).summary
    half = small_run(tmp_path / "half", **SETTINGS).summary
    assert [half[key] * 2 for key in ("bytes_up", "bytes_down")] == [plain[key] for key in ("bytes_up", "bytes_down")]
    assert half["assignment"] == plain["assignment"]
    assert half["mean"] == pytest.approx(plain["mean"], abs=0.1)
    (estimate,) = check_settings(small_settings(**SETTINGS, max_experts=max(2, half["num_experts"]))).estimates
    if half["num_experts"] == 4:
        assert (estimate.bytes_up, estimate.bytes_down) == (half["bytes_up"], half["bytes_down"])


def test_over_flower_the_result_is_that_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from flower.nodes import comparable, over_memory

    here = small_run(tmp_path / "here", **SETTINGS)
    there, _ = over_memory(small_settings(**SETTINGS), tmp_path / "there")
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    assert comparable(there["fedlease"]) == comparable(here.summary)


def test_a_filter_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    assert all(make_filters([name]) for name in FILTERS) and make_filters(()) == (Differences(32, kept_alone=True),)
    with pytest.raises(ConfigError, match="filters: must be among bfloat16, changed, int8, int4, received 'zip'"):
        small_run(tmp_path / "r", filters=["zip"])
    assert not (tmp_path / "r").exists()
