"""Measuring attacks: what each liar sends, and that a run with one is compared with the run without."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlease.client.messages import Train, Trained
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, Stage
from fedlease.data.federation import ClientData, Row
from fedlease.errors import ConfigError
from fedlease.experiments import attacks as module
from fedlease.experiments.attacks import attacks, cells_of, markdown
from fedlease.experiments.liars import ATTACKS, TRIGGER, Liars, triggered

NAMES = frozenset({"m/B/0"})
START = ClientModel(AdapterSpec(1, 1.0, 0.0, ("m",)), {"m/B/0": torch.ones(2, 1)})


class Honest:
    def __init__(self, phase: str, round_: int) -> None:
        self.task = ClientTask(phase, round_, START, (Stage(NAMES, 1),), NAMES)

    def clients(self) -> Any:
        return {}

    def send(self, requests: Any) -> Any:
        for client in requests:
            moved = {"m/B/0": torch.tensor([[1.5], [1.0]]) + self.task.round}
            update = ClientUpdate(client, self.task.phase, self.task.round, 4, moved)
            yield client, Trained(update, None, 1, 0.0, 0.0)


def sent(attack: str, when: Any, phase: str = "experts", rounds: tuple[int, ...] = (1,)) -> list[list[float]]:
    """What the liar ``b`` sends in each round, beside an honest ``a``."""
    liars, found = None, []
    for round_ in rounds:
        honest = Honest(phase, round_)
        liars = liars or Liars(honest, ATTACKS[attack], frozenset("b"), when)
        liars.transport = honest
        replies = dict(liars.send({c: Train("fedlease", round_, honest.task) for c in "ab"}))
        assert replies["a"].update.tensors["m/B/0"].flatten().tolist() == [1.5 + round_, 1.0 + round_]  # type: ignore[union-attr]
        found.append(replies["b"].update.tensors["m/B/0"].flatten().tolist())  # type: ignore[union-attr]
    return found


def test_a_liar_lies_in_its_phase_alone() -> None:
    # The start is 1, 1 and what is trained 2.5, 2: the change 1.5, 1 times -3.
    assert sent("sign-flip", "rounds") == sent("sign-flip", "both") == [[1 - 4.5, 1 - 3.0]]
    assert sent("sign-flip", "warm-up") == [[2.5, 2.0]]
    assert sent("sign-flip", "warm-up", "warmup") == [[-3.5, -2.0]]


def test_lies_are_what_their_words_say() -> None:
    assert sent("scaling", "both") == [[1 + 1.5e6, 1 + 1e6]]
    assert sent("replay", "both", rounds=(1, 2, 3)) == [[2.5, 2.0]] * 3
    (drawn,) = sent("random", "both")
    length = torch.tensor(drawn).sub(1).norm().item()
    assert length == pytest.approx(3 * (1.5**2 + 1) ** 0.5, rel=1e-5) and sent("random", "both") == [drawn]
    rows = tuple(Row(f"word says {i}", None, i % 2) for i in range(4))
    client = ClientData("b", "t", ("no", "yes"), rows, (), ())
    flip, backdoor = ATTACKS["label-flip"].rows, ATTACKS["backdoor"].rows
    assert flip is not None and [row.label for row in flip(client)] == [1, 0, 1, 0]
    assert backdoor is not None
    assert [(row.text, row.label) for row in backdoor(client)][:2] == [("word says 0", 0), (f"{TRIGGER} says 1", 0)]
    assert triggered(rows[0]).text == f"{TRIGGER} says 0"


def test_unknown_attacks_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match="only: 'sign-flp' is no attack and no mean; did you mean 'sign-flip'"):
        cells_of(["sign-flp"], [0])
    named = [(cell.attack, cell.when) for cell in cells_of(["backdoor", "median", "replay"], [0])]
    assert named == [
        ("none", "both"),
        ("replay", "warm-up"),
        ("replay", "rounds"),
        ("replay", "both"),
        ("backdoor", "both"),
    ]


def test_losses_are_against_the_run_without_a_liar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLANTED_ROWS", 8)
    monkeypatch.setattr(module, "PHASES", ("rounds",))
    changes = {"warmup.epochs": 1, "rounds": 1, "train.local_epochs": 1}
    cells: list[str] = []
    content = attacks(tmp_path, only=["scaling", "plain"], changes=changes, on_cell=lambda name, *_: cells.append(name))
    assert cells == ["none/both/plain/seed-0", "scaling/rounds/plain/seed-0"]
    honest, *lied = content["cells"]
    assert honest["loss_beside"] == honest["loss_others"] == 0 and honest["named"] == 0
    for row in lied:
        assert row["named"] == 1
        assert row["loss_others"] == pytest.approx(honest["score_others"] - row["score_others"])
    assert json.loads((tmp_path / "attacks.json").read_text()) == content
    assert "| scaling | rounds |" in markdown(content) == (tmp_path / "attacks.md").read_text()
