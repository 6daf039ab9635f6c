"""A method that Flower has never heard of works over it: nothing there lists methods' phases."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from small import small_run, small_settings, tensors_of

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.nodes import comparable, over_memory

from fedlease.methods.base import Terms
from fedlease.methods.local import Local
from fedlease.methods.registry import METHODS


@dataclass(frozen=True)
class Invented(Local):
    """Local training, whose rounds are a phase of another name."""

    def task(self, state: Any, client: str) -> Any:
        task = super().task(state, client)
        return replace(task, phase="invented") if task and task.phase == "local" else task


def invented(terms: Terms) -> Invented:
    return Invented(terms.budget)


def test_a_new_methods_phase_works_over_flower_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "invented", f"{__name__}:invented")
    settings: dict[str, Any] = {"method": "invented", "baselines": [], "rounds": 1, "data.clients_per_task": 1}
    here = small_run(tmp_path / "here", **settings)
    there, _ = over_memory(small_settings(**settings), tmp_path / "there")
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    assert comparable(there["invented"]) == comparable(here.summary)
    assert '"phase": "invented"' in (tmp_path / "there/rounds.jsonl").read_text()
