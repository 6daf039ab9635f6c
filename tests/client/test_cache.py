"""What is shared between methods and runs: first steps from the common start, and the untrained model's scores."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_run

from fedlease.client.cache import WorkCache
from fedlease.client.results import LocalResult, local_result
from fedlease.core.adapters import initial_adapter
from fedlease.core.types import ClientModel, ClientTask, Stage
from fedlease.experiments.compare import compare
from fedlease.tasks.base import Measured
from fedlease.tasks.classification import Classification

START = initial_adapter({"m": (4, 4)}, r=2, alpha=4, dropout=0.0, seed=0)
NAMES = frozenset(START.tensors)


def task(model: ClientModel = START, round_: int = 0) -> ClientTask:
    return ClientTask("warmup", round_, model, (Stage(NAMES, 1),), NAMES)


def result(value: float) -> Any:
    tensors = {name: torch.full_like(tensor, value) for name, tensor in START.tensors.items()}
    return local_result("c", task(), 3, tensors, 0.5, 1, 0.1)


def test_only_first_steps_from_the_common_start_are_kept() -> None:
    cache = WorkCache(start=START)
    changed = ClientModel(START.spec, {name: tensor + 1 for name, tensor in START.tensors.items()})
    assert cache.step_key("c", task(), START.tensors) is not None
    assert cache.step_key("c", task(round_=2), START.tensors) is None, "a later round"
    assert cache.step_key("c", task(changed), changed.tensors) is None, "another start"
    assert WorkCache().step_key("c", task(), START.tensors) is None, "no method that could do the same"
    assert cache.step_key("c", task(), START.tensors) != cache.step_key("d", task(), START.tensors)


def test_above_the_bound_results_go_to_disk_and_without_a_folder_they_go(tmp_path: Path) -> None:
    size = sum(tensor.nbytes for tensor in START.tensors.values())
    for folder in (tmp_path / "spilt", None):
        cache = WorkCache(start=START, folder=folder, in_memory=size)
        cache.put("a" * 64, result(1.0))
        cache.put("b" * 64, result(2.0))
        first, second = cache.get("a" * 64, LocalResult), cache.get("b" * 64, LocalResult)
        assert first is not None and float(first.update.tensors["m/A/0"][0, 0]) == 1.0
        assert (second is None) == (folder is None)
        if second is not None:
            assert float(second.update.tensors["m/A/0"][0, 0]) == 2.0
    assert [path.name for path in (tmp_path / "spilt").iterdir()] == ["b" * 32 + ".safetensors"]


def test_what_other_runs_read_is_written_and_a_damaged_file_counts_as_absent(tmp_path: Path) -> None:
    WorkCache(folder=tmp_path, shared=True).put("a" * 64, Measured({"accuracy": 0.5}, (1.0, 0.0)))
    other = WorkCache(folder=tmp_path, shared=True)
    assert other.get("a" * 64, Measured) == Measured({"accuracy": 0.5}, (1.0, 0.0))
    assert other.get("a" * 64, LocalResult) is None
    (tmp_path / f"{'a' * 32}.safetensors").write_bytes(b"nothing")
    assert WorkCache(folder=tmp_path, shared=True).get("a" * 64, Measured) is None


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every model that is scored."""
    calls: list[int] = []
    inner = Classification.measure

    def measure(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(1)
        return inner(self, *args, **options)

    monkeypatch.setattr(Classification, "measure", measure)
    return calls


def test_the_untrained_model_is_scored_once_for_all_methods(tmp_path: Path, measured: list[int]) -> None:
    """Of four clients: the untrained model once; then, per method, the second round's model and the final one."""
    small_run(tmp_path / "r", method="fedit", baselines=["local"], data__clients_per_task=1, rounds=1)
    assert len(measured) == 4 * (1 + 2 * (1 + 1))


def test_cells_of_a_comparison_share_it(tmp_path: Path, measured: list[int]) -> None:
    from experiments.test_compare import settings, variants_of

    compare(settings(rounds=0), variants_of(["fedit"]), [0], tmp_path / "c")
    alone = len(measured)
    compare(settings(rounds=0), variants_of(["fedit", "local"]), [0], tmp_path / "c")
    assert len(measured) - alone == alone / 2, "the second cell scores its final models alone"
