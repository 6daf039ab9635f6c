"""Models with any number of labels, and of numbers: loaded, exported, served and joined like those of classes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import FinishedRuns, small_settings

import fedlease
from fedlease.core.types import AdapterSpec, ClientModel
from fedlease.data.federation import Row
from fedlease.data.load import load_federation
from fedlease.data.sources.folder import write_folder
from fedlease.use.export import Exporter
from fedlease.use.merged import in_own_unit
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict

CLIENT = "planted-1-0"
ROWS = [Row("a red fox", None, 0), Row("low", None, 0)]
TASKS = {"multilabel": "multi_label_classification", "regression": "regression"}


@pytest.fixture(scope="module", params=TASKS)
def run(request: pytest.FixtureRequest, finished: FinishedRuns) -> OpenRun:
    return OpenRun(finished(task=request.param, baselines=["local"], rounds=1).out)


@pytest.fixture(scope="module")
def numbers(run: OpenRun) -> list[list[float]]:
    """What the client's model says of every row: probabilities of labels, or a number."""
    found = predict(run, CLIENT, ROWS)
    return [[*row["probabilities"].values()] if "probabilities" in row else [row["prediction"]] for row in found]


def read(outputs: torch.Tensor, run: OpenRun) -> torch.Tensor:
    return outputs.detach() if run.settings.task == "regression" else outputs.detach().sigmoid()


def test_a_loaded_model_says_the_same_and_knows_what_its_outputs_mean(run: OpenRun, numbers: Any) -> None:
    model, tokenizer = fedlease.load(run.out, CLIENT), fedlease.tokenizer(run.out)
    outputs = model(**tokenizer([row.text for row in ROWS], padding=True, return_tensors="pt")).logits
    assert torch.allclose(read(outputs, run), torch.tensor(numbers), atol=1e-4)
    assert model.config.problem_type == TASKS[run.settings.task]


def test_a_merged_model_answers_in_a_pipeline(run: OpenRun, tmp_path: Path) -> None:
    from transformers import pipeline

    folder = Exporter(run, base="some/base").client(CLIENT, tmp_path / "out", form="merged")
    scores = json.loads((folder / "scores.json").read_text())["scores"]
    assert scores["merged"] == pytest.approx(scores["folded"])
    answers = pipeline("text-classification", model=str(folder), top_k=None)(["a red fox"])[0]
    plain = fedlease.predict(run.out, CLIENT, ["a red fox"])[0]
    found = {one["label"]: one["score"] for one in answers}
    expected = plain.get("probabilities", {"value": plain["prediction"]})
    # A mixture with constant weights is near the routed one, in the client's unit.
    assert found.keys() == expected.keys()
    assert [found[label] for label in expected] == pytest.approx(list(expected.values()), rel=0.1)
    card = (folder / "README.md").read_text()
    assert ("It answers with a number" if "value" in found else "top_k=None") in card


def test_an_adapter_goes_with_what_transformers_has_to_know(run: OpenRun, tmp_path: Path) -> None:
    folder = Exporter(run, scores=False, base="some/base").client(CLIENT, tmp_path / "out")
    kind = TASKS[run.settings.task]
    assert json.loads((folder / "labels.json").read_text())["problem_type"] == kind
    assert f'names["problem_type"] = "{kind}"' in (folder / "README.md").read_text()


def test_a_service_gives_labels_or_values(run: OpenRun, numbers: Any) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'fedlease[serve]'")
    from use.serving_client import served

    body = {"client": CLIENT, "rows": [{"text": row.text} for row in ROWS]}
    with served(OpenRun(run.out)) as client:
        answer = client.post("/predict", json=body).json()["predictions"]
    if run.settings.task == "regression":
        assert [[row["value"]] for row in answer] == [pytest.approx(row, abs=1e-3) for row in numbers]
    else:
        assert [[*row["probabilities"].values()] for row in answer] == [pytest.approx(row, abs=1e-5) for row in numbers]
        chosen = [[label for label, value in row["probabilities"].items() if value >= 0.5] for row in answer]
        assert [row["labels"] for row in answer] == chosen


def test_a_newcomer_is_taken_in_with_a_scale_of_its_own(run: OpenRun, tmp_path: Path) -> None:
    settings = small_settings(task=run.settings.task, data__clients_per_task=2)
    federation = load_federation(settings.data, 1, settings.task)
    rows = write_folder([federation.clients["planted-3-1"]], tmp_path / "new")
    out = Path(shutil.copytree(run.out, tmp_path / "run"))
    found = onboard(OpenRun(out), "late", rows / "planted-3-1", epochs=1)
    assert found.scores.keys() >= {"untrained", "own warm-up", "on arrival"}
    scale = federation.clients["planted-3-1"].scale
    opened = OpenRun(out)
    assert opened.client("late").scale == (scale or (0.0, 1.0))
    assert len(predict(opened, "late", ROWS)) == 2


class TestUnits:
    """A head of one output whose numbers are scaled."""

    SPEC = AdapterSpec(1, 1.0, 0.0, ("x",))

    def test_the_last_layer_takes_up_mean_and_deviation(self) -> None:
        """2 x 3 + 0.5 = 6.5 is scaled; 100 + 10 x 6.5 = 165 = 20 x 3 + 105."""
        dense = torch.eye(3)
        tensors = {"head/dense.weight": dense, "head/dense.bias": torch.zeros(3)}
        tensors |= {"head/out.weight": torch.tensor([[2.0, 0.0, 0.0]]), "head/out.bias": torch.tensor([0.5])}
        found = in_own_unit(ClientModel(self.SPEC, tensors), (100.0, 10.0))
        assert found is not None and found.tensors["head/dense.weight"] is dense
        assert found.tensors["head/out.weight"].tolist() == [[20.0, 0.0, 0.0]]
        assert found.tensors["head/out.bias"].tolist() == [105.0]

    def test_without_a_bias_the_mean_has_no_place(self) -> None:
        model = ClientModel(self.SPEC, {"head/score.weight": torch.ones(1, 3)})
        assert in_own_unit(model, (100.0, 10.0)) is None and in_own_unit(model, (0.0, 1.0)) is model
