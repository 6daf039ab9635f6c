"""``allocation.json``: what was written is read, with what warm-ups on halves have shown, and damage is named."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlease.core.types import Allocation
from fedlease.errors import RunFolderError
from fedlease.storage.allocation import read_allocation, write_allocation
from fedlease.storage.run_files import RunFiles

NAN = math.nan
PLAIN: dict[str, Any] = {
    "num_experts": 2, "assignment": {"a": 0, "b": 0, "c": 1}, "silhouettes": {2: 0.5},
    "distances": torch.tensor([[0, 0.25, 1], [0.25, 0, 1], [1, 1, 0]], dtype=torch.float64), "clients": ["a", "b", "c"],
}  # fmt: skip
# c has too few rows for halves.
HALVES: dict[str, Any] = {
    "reliability": {"a": 0.5, "b": -0.125},
    "corrected": torch.tensor([[1, 0.9375, NAN], [0.9375, 1, NAN], [NAN, NAN, NAN]], dtype=torch.float64),
    "corrected_error": torch.tensor([[0, 0.0625, NAN], [0.0625, 0, NAN], [NAN, NAN, NAN]], dtype=torch.float64),
    "unsure": ("b", "c"),
}


def written(out: Path, **more: Any) -> dict[str, Any]:
    write_allocation(RunFiles(out), Allocation(**PLAIN, **more), None, {})
    content: dict[str, Any] = json.loads((out / "allocation.json").read_text())
    return content


def test_a_method_without_halves_has_none_of_their_keys(tmp_path: Path) -> None:
    keys = ["clients", "num_experts", "assignment", "silhouettes", "distances", "warnings", "tasks"]
    assert list(written(tmp_path)) == keys
    found = read_allocation(tmp_path)
    assert found is not None
    assert (found.reliability, found.corrected, found.corrected_error, found.unsure) == ({}, None, None, ())


def test_what_halves_have_shown_is_read_as_it_was_written(tmp_path: Path) -> None:
    content = written(tmp_path, **HALVES)
    assert content["corrected"] == [[1, 0.9375, None], [0.9375, 1, None], [None, None, None]]
    found = read_allocation(tmp_path)
    assert found is not None and found.corrected is not None and found.corrected_error is not None
    assert (found.reliability, found.unsure) == (HALVES["reliability"], HALVES["unsure"])
    assert torch.equal(found.distances, PLAIN["distances"])
    assert torch.equal(found.corrected.nan_to_num(-9), HALVES["corrected"].nan_to_num(-9))
    assert torch.equal(found.corrected_error.nan_to_num(-9), HALVES["corrected_error"].nan_to_num(-9))


def test_where_nobody_could_be_halved_only_the_unsure_are_written(tmp_path: Path) -> None:
    content = written(tmp_path, unsure=("a", "b", "c"))
    assert content["unsure"] == ["a", "b", "c"] and "corrected" not in content
    found = read_allocation(tmp_path)
    assert found is not None and (found.unsure, found.corrected) == (("a", "b", "c"), None)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"corrected": [[1.0]]}, "corrected must have 3 rows and columns, one per client"),
        ({"corrected_error": [[0.0, 0.0, 0.0]] * 2}, "corrected_error must have 3 rows and columns"),
        ({"corrected_error": [[0.0] * 3] * 3}, "corrected and corrected_error must be known for the same pairs"),
        ({"corrected": None}, "corrected and corrected_error must be known for the same pairs"),
        ({"corrected_error": [[-1.0] * 3] * 3}, r"corrected_error\.0\.0\S* .*greater than or equal to 0"),
        ({"corrected": [["x"] * 3] * 3}, r"corrected\.0\.0\S* must be a valid number, received str"),
        ({"corrected": [[NAN] * 3] * 3}, r"corrected\.0\.0\S* must be a finite number"),
        ({"reliability": {"a": NAN}}, r"reliability\.a must be a finite number"),
        ({"reliability": {"d": 0.5}}, "reliability, evidence or unsure names 'd', which is none of the clients"),
        ({"unsure": ["../d"]}, r"unsure\.0 : a client's id"),
        ({"unsure": "b"}, "unsure must be a valid list, received str"),
    ],
)
def test_damage_is_named_by_its_place(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    content = {**written(tmp_path, **HALVES), **change}
    (tmp_path / "allocation.json").write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=rf"allocation\.json is damaged: .*{fault}"):
        read_allocation(tmp_path)
