"""A client that cannot learn moves no average of any method and is left out of means; a stated list lets it learn."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import own_rows, rounds_of, small_run, small_settings

import fedlease
from fedlease.client.training import Trainer
from fedlease.errors import DataError
from fedlease.storage.checkpoint import Checkpoint
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun

MUTE = "mute"
TAKE_ALL: dict[str, Any] = {"data__train_rows": None, "data__test_rows": None, "baselines": [], "rounds": 1}


def with_mute(folder: Path, rows: int = 16) -> Path:
    own_rows(folder, train=4)
    (folder / MUTE).mkdir()
    for split, count in (("train", rows), ("test", 4)):
        lines = [json.dumps({"text": f"mute says yes {n} {split}", "label": "yes"}) for n in range(count)]
        (folder / MUTE / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def state_of(out: Path) -> Any:
    saved = Checkpoint(out).load()
    assert saved is not None
    return saved.state


def flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for key in sorted(value) for tensor in flat(value[key])]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in flat(item)]
    return flat(vars(value)) if hasattr(value, "__dict__") else []


# One for every way in which a server uses what clients upload: means, products, candidates, sums over the rest, layers,
# gradients; who cannot learn is left out before any of them.
METHODS = ["fedit", "local", "ifca", "fedalt", "feddpa", "fedtreelora", "flora", "scaffold", "centralised"]


def test_it_changes_nothing_for_the_others_under_any_method(tmp_path: Path) -> None:
    changes = {**TAKE_ALL, "baselines": METHODS}
    without = small_run(tmp_path / "without", data__path=str(own_rows(tmp_path / "a", train=4)), **changes)
    beside = small_run(tmp_path / "beside", data__path=str(with_mute(tmp_path / "b")), **changes)
    for name, summary in beside.summaries.items():
        folder = Path() if name == "fedlease" else Path("baselines", name)
        one, other = flat(state_of(without.out / folder)), flat(state_of(beside.out / folder))
        assert one and len(one) == len(other), name
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), name
        assert summary["num_experts"] == without.summaries[name]["num_experts"]
        assert MUTE not in summary["assignment"]
        assert not any(MUTE in line["clients"] for line in rounds_of(beside.out / folder))
        fedlease.load(beside.out, MUTE, name)


@pytest.mark.parametrize("head", ["local", "shared"])
def test_a_stated_list_lets_it_learn_and_weigh(head: str, tmp_path: Path) -> None:
    rows = str(with_mute(tmp_path / "rows"))
    result = small_run(tmp_path / "r", head=head, data__path=rows, data__labels=["no", "yes"], **TAKE_ALL)
    assert MUTE in result.summary["assignment"]
    assert all(MUTE in line["clients"] for line in rounds_of(result.out))
    assert fedlease.load(result.out, MUTE).config.id2label == {0: "no", 1: "yes"}


def test_a_step_without_any_gradient_is_refused_whatever_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Trainer.train

    def step(self: Trainer, who: str, *args: Any) -> Any:
        resident = self.resident
        if who != "one":
            return train(self, who, *args)
        honest = resident.task
        silent = type(honest)(**vars(honest))
        object.__setattr__(silent, "batch_loss", lambda model, rows, batch: honest.batch_loss(model, rows, batch) * 0.0)
        resident.task = silent
        try:
            return train(self, who, *args)
        finally:
            resident.task = honest

    monkeypatch.setattr(Trainer, "train", step)
    result = small_run(tmp_path / "r", method="fedit", data__path=str(own_rows(tmp_path / "a")), **TAKE_ALL)
    assert all(
        line["refused"] == {"one": "no step had a gradient, the loss is 0: its rows teach nothing"}
        for line in rounds_of(result.out)
    )


def test_over_flower_it_weighs_nothing_and_a_list_gives_its_node_the_labels(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from flower.nodes import over_memory

    rows = {"data__path": str(with_mute(tmp_path / "rows")), **TAKE_ALL}
    there, _ = over_memory(small_settings(**rows), tmp_path / "there")
    here = small_run(tmp_path / "here", **rows)
    assert there["fedlease"]["mean"] == here.summary["mean"] and there["fedlease"]["per_client"] == dict(
        here.summary["per_client"]
    )
    stated, _ = over_memory(small_settings(data__labels=["no", "yes"], **rows), tmp_path / "stated")
    assert MUTE in stated["fedlease"]["assignment"]


def test_a_newcomer_of_one_label_is_refused_by_name(tmp_path: Path) -> None:
    result = small_run(tmp_path / "r", data__path=str(own_rows(tmp_path / "a")), **TAKE_ALL)
    with pytest.raises(DataError, match=r"client 'late': all train rows have the label 'yes'.*learns nothing"):
        onboard(OpenRun(result.out), "late", with_mute(tmp_path / "b") / MUTE)
