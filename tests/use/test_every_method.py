"""Every method of the table leaves models that are exported as stock adapters, and that a newcomer can join."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from small import EVERY, FinishedRuns
from transformers import AutoModelForSequenceClassification

from fedlease.client.training import Trainer
from fedlease.client.worker import Client
from fedlease.core.adapters import check_whole
from fedlease.core.codec import dumps
from fedlease.data.load import load_federation
from fedlease.methods.registry import known_methods
from fedlease.runs.open import optimiser_of
from fedlease.use.export import Exporter
from fedlease.use.late_client import join
from fedlease.use.open_run import OpenRun

CLIENT, LATE = "planted-1-0", "planted-9-0"
IDS = torch.arange(4, 44).view(4, 10)


@pytest.fixture(scope="module")
def out(finished: FinishedRuns) -> Path:
    return finished(**EVERY).out


@pytest.fixture(scope="module")
def newcomer(out: Path) -> Client:
    """A client like one of the run, under another name."""
    run = OpenRun(out)
    rows = load_federation(run.settings.data, run.settings.seed, run.settings.task).clients[CLIENT]
    rows = replace(rows, id=LATE)
    return Client(rows, run.encode(rows.train), run.encode(rows.test))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("method", known_methods())
def test_a_client_leaves_as_a_stock_adapter_that_computes_what_it_does(method: str, out: Path, tmp_path: Path) -> None:
    run = OpenRun(out, method)
    run.load(CLIENT)
    expected, routed = logits(run.resident.model), run.model(CLIENT).spec.routed
    Exporter(run, scores=False).client(CLIENT, tmp_path / "x")
    base = AutoModelForSequenceClassification.from_pretrained(out / "base", num_labels=2)
    found = logits(PeftModel.from_pretrained(base, str(tmp_path / "x")).eval())
    if routed:
        assert torch.isfinite(found).all(), "with average weights instead of a router"
    else:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", sorted({*known_methods()} - {"fedlease", "fedlease-plus"}))
def test_a_newcomer_joins_with_a_copy_of_its_own(method: str, out: Path, newcomer: Client) -> None:
    run = OpenRun(out, method)
    before, trainer = dumps(run.saved.state), Trainer(run.resident, replace(optimiser_of(run.settings), threads=1))
    steps: list[str] = []
    arrival, trained = join(run, newcomer, trainer, 2, lambda phase, *_: steps.append(phase))
    assert dumps(run.saved.state) == before, "what it has moved is its own copy"
    changed = {
        n for n, t in trained.tensors.items() if n not in arrival.tensors or not torch.equal(t, arrival.tensors[n])
    }
    assert any(not name.startswith("head/") for name in changed) and any(name.startswith("head/") for name in changed)
    check_whole(trained)
    run.resident.load(trained, newcomer.num_labels)
    assert torch.isfinite(logits(run.resident.model)).all()
    # Two passes beside the warm-up of a method that has one for clients that come late, in one batch of eight rows.
    assert len([phase for phase in steps if phase != "warmup"]) == 2 * (2 if method == "feddpa" else 1)
    assert join(run, newcomer, trainer, 0)[1].tensors.keys() == arrival.tensors.keys()
