"""What is said of secure sums before a run begins."""

import pytest
import torch
from small import small_settings

from fedlease.client.messages import Train
from fedlease.core.adapters import initial_adapter
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, Stage
from fedlease.data.federation import ClientCard
from fedlease.privacy import masking
from fedlease.runs.sums import rules_of, sketch_fault, sum_fault, sum_notes
from fedlease.server.dry import DryTransport

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")


def test_fewer_than_three_clients_are_refused_beforehand() -> None:
    on = small_settings(privacy__secure_sums=True)
    why = "privacy.secure_sums: needs 3 clients with rows to learn from, and 2 clients have such rows"
    assert sum_fault(on, 2) == why and sum_fault(on, 3) == "" and sum_fault(small_settings(), 2) == ""
    drawn = small_settings(privacy__secure_sums=True, method="fedit", clients_per_round=2)
    assert sum_fault(drawn, 8) == "clients_per_round: must be at least 3 with privacy.secure_sums, received 2"


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "find_spec", lambda name: None)
    fault = sum_fault(small_settings(privacy__secure_sums=True), 4)
    assert fault.startswith("privacy.secure_sums: needs the packages cryptography and flwr")


def test_it_is_said_what_sums_do_not_cover() -> None:
    assert sum_notes(small_settings()) == []
    covered, bounds = sum_notes(small_settings(privacy__secure_sums=True))
    assert "the server sees every client's warm-up" in covered
    assert "bounds.norm, bounds.step and bounds.copies check only warm-ups, since privacy.secure_sums" in bounds


def test_a_sketch_is_at_most_half_of_what_it_is_of() -> None:
    adapter = initial_adapter({"q": (6, 100), "v": (6, 50)}, r=2, alpha=4, dropout=0.0, seed=0)  # B: 300, A: 24
    most = small_settings(privacy__sketch=150, privacy__secure_sums=True)
    assert sketch_fault(most, adapter) == "" and sketch_fault(small_settings(), adapter) == ""
    more = small_settings(privacy__sketch=151, privacy__secure_sums=True)
    assert sketch_fault(more, adapter) == "privacy.sketch: must be at most half of the 300 numbers of B, received 151"
    of_a = small_settings(privacy__sketch=100, privacy__secure_sums=True, fedlease__signal="A")
    assert sketch_fault(of_a, adapter) == "privacy.sketch: must be at most half of the 24 numbers of A, received 100"
    (said, _) = sum_notes(most)
    assert "the server sees a sketch of every client's warm-up" in said


def test_the_estimate_counts_bytes_as_they_are_masked() -> None:
    # 60 rows of values up to 2^8 at 1e-7 are 2^(5.9 + 8 + 23.3), and a sign and a spare bit: 40 bits, 5 bytes each; the
    # weight and 8 values are 9 numbers, and the warm-up 8 float32.
    rules = rules_of(small_settings(privacy__secure_sums=True))
    assert rules is not None and rules.threshold(3) == 2 and rules.threshold(16) == 11
    cards = {c: ClientCard(c, "", ("0", "1"), False, 20, 0, 0, "") for c in "abc"}
    spec, name = AdapterSpec(1, 1.0, 0.0, ("q",)), "q/B/0"
    model = ClientModel(spec, {name: torch.zeros(8, 1)})
    counted = []
    for phase in ("warmup", "experts"):
        task = ClientTask(phase, 1, model, (Stage(frozenset({name}), 1),), frozenset({name}))
        dry = DryTransport(cards, model, 1, sums=rules)
        list(dry.send({"a": Train("fedlease", 1, task)}))
        counted.append(dry.traffic.take()["bytes_up"])
    assert counted == [8 * 4, 9 * 5]
