"""A run under differential privacy: what it asks beforehand, what it spends, and what it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import FinishedRuns, rounds_of, small_run, small_settings, tensors_of

from fedlease.client.private_steps import PrivacyTerms
from fedlease.core.row_noise import Amount
from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError
from fedlease.methods.registry import CENTRALISED, METHODS
from fedlease.runs import privacy
from fedlease.runs.methods import bounds_of
from fedlease.runs.open import load_run
from fedlease.runs.privacy import passes_of, privacy_notes, terms_of, trainer_of
from fedlease.runs.runner import resume

PRIVATE: dict[str, Any] = {"privacy.epsilon": 8.0, "baselines": ["fedit"], "warmup.epochs": 2, "data.train_rows": 12}
"""Two rounds: fedlease and fedit ask for four passes each; 12 rows in batches of 8 are two steps a pass."""


@pytest.fixture(scope="module")
def whole(finished: FinishedRuns) -> Path:
    return finished(**PRIVATE).out


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_counted_or_refused_in_one_sentence(name: str) -> None:
    """E + R passes; two-stage methods train two models so long. Candidates depend on rows; E is on halves in plus."""
    settings = small_settings(method=name, **{"warmup.epochs": 2})
    if name == "ifca":
        with pytest.raises(ConfigError, match=f"method: {name} .* which privacy.epsilon does not cover"):
            passes_of(settings)
    elif name != CENTRALISED:
        other = {"feddpa": Amount(8), "fedlease-plus": Amount(2, halves=2)}
        assert passes_of(settings) == {name: other.get(name, Amount(4))}


def test_noise_is_enough_for_method_and_baselines_together(whole: Path) -> None:
    terms = terms_of(small_settings(**PRIVATE), secret=False)
    assert terms is not None
    assert terms.passes == {"fedlease": Amount(4), "fedit": Amount(4)}
    assert 7.9 <= terms.spent(12, Amount(16)) <= 8.0
    for folder in (whole, whole / "baselines/fedit"):
        spent = [[row["epsilon"] for row in line["clients"].values()] for line in rounds_of(folder)]
        assert all(len(set(each)) == 1 for each in spent)
        climb = [each[0] for each in spent]
        assert climb == sorted(climb)
        assert climb[-1] == round(terms.spent(12, Amount(8)), 4) < 8.0
        summary = json.loads((folder / "summary.json").read_text())
        assert set(summary["epsilon"].values()) == {climb[-1]}


def test_a_warmup_on_halves_is_within_epsilon(monkeypatch: Any, tmp_path: Path) -> None:
    """20 rows in batches of 8: two passes on halves of 10 are 4 steps at a rate of .8, two on all are 6 at .4.

    Noise is that of 20 rows, for the halves as well.
    """
    asked, noise = set(), PrivacyTerms.noise
    monkeypatch.setattr(PrivacyTerms, "noise", lambda terms, rows: asked.add(rows) or noise(terms, rows))
    changes = {**PRIVATE, "method": "fedlease-plus", "baselines": [], "data.train_rows": 20}
    run = small_run(tmp_path / "r", **changes)
    assert asked == {20}
    terms = terms_of(small_settings(**changes), secret=False)
    assert terms is not None and terms.planned(20) == Amount(6, halves=4)
    spent = [{row["epsilon"] for row in line["clients"].values()} for line in rounds_of(run.out)]
    wanted = [Amount(0, halves=4), Amount(3, halves=4), Amount(6, halves=4)]
    assert spent == [{round(terms.spent(20, steps), 4)} for steps in wanted]
    assert 7.9 <= terms.spent(20, wanted[-1]) <= 8.0


def test_no_loss_no_score_of_a_row_and_no_finer_score_is_on_file(whole: Path) -> None:
    rows = [row for line in rounds_of(whole) for row in line["clients"].values()]
    assert not any("loss" in row for row in rows)
    assert all(row["score"] == round(row["score"], 2) for row in rows)
    assert json.loads((whole / "row_scores.json").read_text()) == {}
    assert "epsilon 8 at delta 1e-05" in (whole / "report.html").read_text()


def test_the_head_is_trained_in_standard_coordinates_and_not_bound_by_the_step() -> None:
    settings = small_settings(**PRIVATE)
    loaded = load_run(settings)
    private = trainer_of(loaded, terms_of(settings, secret=False)).privacy
    assert private is not None and private.inputs is not None
    assert private.inputs.weight == "head/classifier.weight"
    assert bounds_of(settings, "fedlease").private and not bounds_of(small_settings(), "fedlease").private


def test_a_run_that_is_resumed_has_the_same_bits_and_spends_no_more(
    whole: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Stopped after the warm-up, in the middle of the first round."""

    class Stop(BaseException):
        pass

    def listen(event: Any) -> None:
        if type(event).__name__ == "ClientFinished" and event.round == 1 and event.method == "fedlease":
            raise Stop

    with pytest.raises(Stop):
        small_run(tmp_path / "r", listeners=[listen], **PRIVATE)
    resume(tmp_path / "r")
    assert tensors_of(tmp_path / "r") == tensors_of(whole)
    ours, theirs = (json.loads((out / "summary.json").read_text())["epsilon"] for out in (tmp_path / "r", whole))
    assert ours == theirs


def test_noise_changes_what_is_learnt(whole: Path, finished: FinishedRuns) -> None:
    plain = finished(**{**PRIVATE, "privacy.epsilon": None}).out
    assert tensors_of(whole) != tensors_of(plain)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"early_stopping.patience": 2, "data.valid_fraction": 0.2}, "early_stopping.patience: compares scores"),
        ({"train.class_weights": "balanced"}, "train.class_weights: weighs every row"),
        ({"task": "regression"}, "task: scales numbers"),
        ({"baselines": ["centralised"]}, "method: centralised pools the rows"),
        ({"privacy.epsilon": 0}, "privacy.epsilon: must be at least 0.01, received 0"),
        ({"privacy.delta": 0.5}, "privacy.delta: must be below 0.01, received 0.5"),
        ({"privacy.clip": -1}, "privacy.clip: must be above 0, received -1"),
        ({"method": "ifca", "baselines": []}, "method: ifca has clients choose among adapters"),
        ({"clients_per_step": 2}, "clients_per_step: must be 1 or auto with privacy.epsilon"),
    ],
)
def test_what_would_leak_is_refused_before_anything_is_trained(changes: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        small_run(tmp_path / "r", **{**PRIVATE, **changes})
    assert any(each.startswith(fault) for each in found.value.faults), found.value.faults
    assert not (tmp_path / "r").exists()


def test_few_rows_and_a_loose_delta_are_told() -> None:
    """1,024 parameters are 32 times as long as one: 5 x 32 / (8 x 12) = 1.7 for 12 rows, 0.1 for 200."""
    loaded = load_run(small_settings(**{**PRIVATE, "privacy.delta": 0.009}))
    cards = {c: ClientCard(c, "t", ("a", "b"), False, n, 0, 0, "") for c, n in (("few", 12), ("many", 200))}
    notes = privacy_notes(loaded, cards)
    assert [note.split(":")[0] for note in notes][:2] == [
        "privacy.delta = 0.009 guarantees nothing to many",
        "few rows for epsilon 8",
    ]
    assert "the noise of few is up to" in notes[1]


def test_without_epsilon_there_is_nothing(monkeypatch: Any) -> None:
    monkeypatch.setattr(privacy, "check_accountant", lambda: pytest.fail("looked for the accountant"))
    assert terms_of(small_settings(), secret=False) is None
