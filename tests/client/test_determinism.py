"""A GPU is told to repeat itself, for the time of the work alone; the settings are torch's and need no GPU."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_run, tensors_of

from fedlease.client.determinism import same_bits
from fedlease.errors import ConfigError

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def state() -> list[Any]:
    products = torch.backends.cuda.matmul
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        products.fp32_precision if hasattr(products, "fp32_precision") else products.allow_tf32,
        torch.utils.deterministic.fill_uninitialized_memory,
    ]


@pytest.fixture(params=[False, True], ids=["as torch begins", "as somebody set it"])
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", request.param)
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield state()
    torch.backends.cuda.matmul.allow_tf32 = False


def test_it_holds_for_the_time_of_the_work_on_a_gpu(before: list[Any]) -> None:
    with same_bits(GPU):
        found = state()
        assert found[:4] == [True, False, False, True] and found[4] in ("ieee", False) and found[5] is False
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        with same_bits(GPU):
            assert state() == found
        assert state() == found
    assert state() == before
    with pytest.raises(KeyError), same_bits(GPU):
        raise KeyError
    assert state() == before


def test_a_processor_needs_none_of_it(before: list[Any]) -> None:
    with same_bits(CPU):
        assert state() == before
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_an_operation_that_cannot_repeat_is_one_sentence() -> None:
    said = "cumsum_cuda_kernel does not have a deterministic implementation"
    torchs = f"{said}, but you set 'torch.use_deterministic_algorithms(True)'. You can turn off determinism."
    with pytest.raises(ConfigError) as caught, same_bits(GPU):
        raise RuntimeError(torchs)
    assert caught.value.faults == (
        f"deterministic: {said}; with deterministic=false the model runs, but results repeat only up to rounding",
    )
    with pytest.raises(RuntimeError, match="out of memory"), same_bits(GPU):
        raise RuntimeError("CUDA out of memory")


@pytest.mark.parametrize("deterministic", [True, False])
def test_training_and_scoring_ask_for_it_as_the_settings_say(
    deterministic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where the work is: gradients in training, none in scoring; the centralised method trains elsewhere."""
    from fedlease.client import resident

    asked: set[bool] = set()

    def told(device: torch.device) -> Any:
        asked.add(torch.is_grad_enabled())
        return same_bits(device)

    monkeypatch.setattr(resident, "same_bits", told)
    small_run(tmp_path / "r", method="centralised", baselines=[], rounds=1, deterministic=deterministic)
    assert asked == ({True, False} if deterministic else set())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_runs_on_a_gpu_end_in_the_same_bits(dtype: str, tmp_path: Path) -> None:
    for name in "ab":
        small_run(tmp_path / name, baselines=[], device="cuda", dtype=dtype, lora__dropout=0.1)
    assert tensors_of(tmp_path / "a") == tensors_of(tmp_path / "b")
