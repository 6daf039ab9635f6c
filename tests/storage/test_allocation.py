"""``allocation.json``: what was written is read, with what warm-ups on halves have shown, and damage is named."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from fedlease.core.allocate import allocate, assign
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


def many(count: int, **more: Any) -> Allocation:
    clients = [f"c{i:04}" for i in range(count)]
    d = torch.rand(count, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Allocation(1, dict.fromkeys(clients, 0), {}, d, clients, **more)


def sizes(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in out.iterdir() if path.name.startswith(("alloc", "dist"))}


def test_pairs_of_many_clients_are_a_file_of_float32_and_the_json_grows_with_the_clients(tmp_path: Path) -> None:
    """64 have a list of lists; of more, four bytes a pair, and twice as many clients make twice as much JSON."""
    found = {}
    for count in (64, 65, 200, 400):
        write_allocation(RunFiles(tmp_path / str(count)), many(count), None, {})
        found[count] = sizes(tmp_path / str(count))
        again = read_allocation(tmp_path / str(count))
        assert again is not None and again.distances is not None
        exact = many(count).distances
        assert exact is not None and again.distances.equal(exact if count <= 64 else exact.float().double())
    assert found[64].keys() == {"allocation.json"}
    for count in (65, 200, 400):
        assert 4 * count**2 <= found[count]["distances.safetensors"] < 4 * count**2 + 200
    assert 1.9 < found[400]["allocation.json"] / found[200]["allocation.json"] < 2.1


def test_pairs_that_are_on_disk_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run writes the allocation anew, with the mean warm-ups; a new allocation has new pairs."""
    written: list[str] = []
    write = RunFiles.write
    monkeypatch.setattr(RunFiles, "write", lambda self, name, blob: written.append(name) or write(self, name, blob))
    for allocation in (many(70), many(70), many(71)):
        write_allocation(RunFiles(tmp_path), allocation, None, {})
    assert written == ["distances.safetensors", "allocation.json", "allocation.json", *written[:2]]


def test_an_allocation_keeps_no_pairs_of_more_clients_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlease.core.allocate.MOST_PAIRED", 4)
    draw = torch.Generator().manual_seed(0)
    b = {f"c{i}": {"m": torch.randn(3, 2, generator=draw)} for i in range(5)}
    four = {client: b[client] for client in sorted(b)[:4]}
    assert allocate(four).distances is not None and assign(four, dict.fromkeys(b, 0)).distances is not None
    assert allocate(b).distances is None and assign(b, dict.fromkeys(b, 0)).distances is None
    b["c0"]["m"][0, 0] = NAN
    with pytest.raises(ValueError, match="B of client 'c0' holds values that are NaN"):
        assign(b, dict.fromkeys(b, 0))


def test_without_kept_pairs_none_are_written(tmp_path: Path) -> None:
    write_allocation(RunFiles(tmp_path), replace(many(70), distances=None), None, {})
    found = read_allocation(tmp_path)
    assert sizes(tmp_path).keys() == {"allocation.json"} and found is not None and found.distances is None


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"distances": torch.zeros(70, 69)}, "distances must have 70 rows and columns, one per client"),
        ({"distances": torch.zeros(70, 70).double()}, "distances is none of .* in float32"),
        ({"../x": torch.zeros(70, 70)}, "../x is none of distances, corrected, corrected_error"),
        ({"distances": torch.full((70, 70), NAN)}, "distances has values that are not finite"),
        ({"corrected": torch.zeros(70, 70)}, "corrected and corrected_error must be known for the same pairs"),
        (
            {"corrected": torch.zeros(70, 70), "corrected_error": torch.full((70, 70), NAN)},
            "corrected and corrected_error must be known for the same pairs",
        ),
        (
            {"corrected": torch.zeros(70, 70), "corrected_error": torch.full((70, 70), -1.0)},
            "corrected_error has values that are not finite or out of range",
        ),
        (None, "."),
    ],
)
def test_damage_of_the_pairs_is_named(tmp_path: Path, tensors: Any, fault: str) -> None:
    write_allocation(RunFiles(tmp_path), many(70), None, {})
    (tmp_path / "distances.safetensors").write_bytes(b"damaged" if tensors is None else save(tensors))
    with pytest.raises(RunFolderError, match=rf"distances\.safetensors is damaged: .*{fault}"):
        read_allocation(tmp_path)


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
