"""The one training loop: no loss is read before its step is done, and a step that diverged leaves nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small import own_rows, rounds_of, small_run

from fedlease.tasks.classification import Classification


class Spied(torch.Tensor):
    """A loss that notes when it is differentiated and when its value is read."""

    log: list[str]

    def backward(self, *args: Any, **options: Any) -> None:
        self.log.append("backward")
        super().backward(*args, **options)

    def detach(self) -> Any:
        value = super().detach()
        value.log = self.log
        return value

    def __float__(self) -> float:
        self.log.append("read")
        return float(self.as_subclass(torch.Tensor))


def test_a_loss_is_read_when_the_next_step_has_been_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    honest = Classification.batch_loss

    def batch_loss(self: Any, *args: Any) -> Any:
        loss = honest(self, *args).as_subclass(Spied)
        loss.log = log
        return loss

    monkeypatch.setattr(Classification, "batch_loss", batch_loss)
    rows = {"data__path": str(own_rows(tmp_path / "rows", ("a", "b"), train=12)), "train__batch_size": 4}
    small_run(tmp_path / "r", method="local", baselines=[], rounds=0, **rows)
    # Two clients, one pass of three steps each: reading waits for no step but a past one.
    assert log == ["backward", "backward", "read", "backward", "read", "read"] * 2


def test_a_step_that_diverged_is_named_and_never_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, steps = Classification.batch_loss, iter(range(1, 10**6))

    def batch_loss(self: Any, *args: Any) -> Any:
        loss = honest(self, *args)
        return loss * float("nan") if next(steps) == 2 else loss

    monkeypatch.setattr(Classification, "batch_loss", batch_loss)
    rows = {"data__path": str(own_rows(tmp_path / "rows", ("a", "b"), train=12)), "train__batch_size": 4}
    result = small_run(tmp_path / "r", method="fedit", baselines=[], rounds=0, **rows)
    (record,) = rounds_of(result.out)
    assert record["refused"] == {"a": "loss is nan in epoch 1, step 2"} and list(record["clients"]) == ["b"]
    assert record["bytes_up"] * 2 == record["bytes_down"], "what is refused by its own client does not travel"
