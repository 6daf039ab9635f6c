"""A new task is one file, its row in the table and its tests: nothing else asks which task it is."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from small import rounds_of, small_run, small_settings
from torch import Tensor

import fedlease
from fedlease.config.data import ColumnSettings
from fedlease.config.settings import Settings
from fedlease.config.tables import CLASSIFIER, SOURCES, TASKS, SourceFacts, TaskFacts, known_sources, known_tasks
from fedlease.core import plugins
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.data.load import load_federation
from fedlease.data.reading.rows import Table
from fedlease.errors import ConfigError
from fedlease.tasks.base import UNSCALED, Measured, Model, OnRows, Scale
from fedlease.tasks.classification import Classification
from fedlease.tasks.encoded import Encoded
from fedlease.tasks.metrics import LOSS, Metric, MetricWords
from fedlease.tasks.registry import task_class
from fedlease.tasks.texts import evaluate
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict_file

PACKAGE = Path(fedlease.__file__).parent


@dataclass(frozen=True)
class Near:
    """Labels in an order: a guess counts 1 where it is right and half where it is the label before or behind."""

    plain: Classification
    metric: ClassVar[str] = "near"
    metrics: ClassVar[dict[str, Metric]] = {"near": Metric(), "loss": LOSS}
    extra_metrics: ClassVar[dict[str, Metric]] = {}
    score_rounds: ClassVar[bool] = True
    num_samples: ClassVar[int] = 0
    prediction_columns: ClassVar[tuple[str, ...]] = ("place",)
    headlines: ClassVar[dict[str, MetricWords]] = {
        "near": MetricWords("nearness", "usual label", "naming the usual label")
    }

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(Classification.of(settings))

    def describe(self) -> str:
        return "labels in an order"

    def encode(self, rows: Sequence[Row], tokenizer: Any, scale: Scale = UNSCALED) -> Encoded:
        return self.plain.encode(rows, tokenizer, scale)

    def warnings(self, encoded: Sequence[Encoded]) -> list[str]:
        return self.plain.warnings(encoded)

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        return self.plain.batch_loss(model, rows, indices)

    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        return self.plain.mean_loss(model, rows, threads)

    def measure(self, model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Measured:
        guesses = evaluate(model, rows, threads, on_rows).argmax(-1).tolist()
        near = [max(0.0, 1 - abs(guess - label) / 2) for guess, label in zip(guesses, rows.labels, strict=True)]
        return Measured({"near": sum(near) / len(near), "loss": self.mean_loss(model, rows, threads)}, tuple(near))

    def apart_and_together(self, model: Model, rows: Encoded) -> dict[str, tuple[Tensor, Tensor]]:
        return self.plain.apart_and_together(model, rows)

    def samples(self, rows: Sequence[Row], answers: Sequence[str], bare: Sequence[str]) -> list[dict[str, str]]:
        return []

    def majority_score(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        return self.plain.majority_score(train, test)

    def read_inputs(self, table: Table, columns: ColumnSettings, faults: Faults, *, pairs: bool | None) -> list[Row]:
        return self.plain.read_inputs(table, columns, faults, pairs=pairs)

    def predict(
        self, model: Model, rows: Encoded, labels: Sequence[str], threads: int, on_rows: OnRows | None = None
    ) -> list[dict[str, Any]]:
        return [{"place": place} for place in evaluate(model, rows, threads, on_rows).argmax(-1).tolist()]

    def grade(self, *columns: Any) -> None:
        return None


FACTS = TaskFacts(f"{__name__}:Near", "labels", CLASSIFIER)


def test_a_row_in_the_table_is_all_that_a_run_its_report_and_its_predictions_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "near", FACTS)
    run = small_run(tmp_path / "run", task="near", baselines=["fedit"], rounds=1)
    summary = run.summaries["fedlease"]
    assert summary["metric"] == "near" and 0 <= summary["mean"] <= 1
    assert all("near" in line["metrics"] for line in rounds_of(run.out)[-1]["clients"].values() if "metrics" in line)
    report = (run.out / "report.html").read_text()
    assert "labels in an order, scored by nearness" in report and "usual label" in report
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "abc"}) + "\n")
    said = json.loads(predict_file(OpenRun(run.out), "planted-0-0", rows))
    assert said["text"] == "abc" and said["place"] in (0, 1)
    with pytest.raises(ConfigError, match=r"task: must be one of .*, generation, near, received 'nearer'"):
        small_settings(task="nearer")


def asks_for_a_task(source: str) -> list[str]:
    """Comparisons with the name of a task or its class."""
    names, classes = set(TASKS), {facts.path.partition(":")[2] for facts in TASKS.values()}
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare | ast.MatchValue):
            constants = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            found += [ast.unparse(node)] * bool(constants & names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            kinds = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            found += [ast.unparse(node)] * bool(kinds & classes)
    return found


def test_no_other_folder_asks_which_task_it_is() -> None:
    found = {
        str(path.relative_to(PACKAGE)): faults
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] != "tasks" and (faults := asks_for_a_task(path.read_text()))
    }
    templates = [path for pattern in ("*.html", "*.j2") for path in PACKAGE.rglob(pattern)]
    pattern = re.compile(rf"[!=]= *[\"']({'|'.join(TASKS)})")
    found |= {str(path.relative_to(PACKAGE)): ["template"] for path in templates if pattern.search(path.read_text())}
    assert found == {}


@pytest.mark.parametrize(
    "source", ["x = s.task == 'generation'", "y = task not in ('classification',)", "z = isinstance(t, Generation)"]
)
def test_a_planted_question_is_found(source: str) -> None:
    assert asks_for_a_task(source) != []


def entries(monkeypatch: pytest.MonkeyPatch, group: str, **found: str) -> None:
    given = tuple(EntryPoint(name, value, group) for name, value in found.items())
    monkeypatch.setattr(plugins, "_entries", lambda asked: given if asked == group else ())


def load(settings: Any, seed: int, rows: str) -> Any:
    """The entry of a source."""
    raise NotImplementedError(f"asked for {rows}")


SOURCE = SourceFacts(__name__, ("labels",))


class TestInstalledPackages:
    def test_a_task_of_a_package_is_a_row_like_any(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entries(monkeypatch, "fedlease.tasks", near=f"{__name__}:FACTS")
        assert known_tasks() == {**TASKS, "near": FACTS}
        assert task_class("near") is Near and small_settings(task="near").task == "near"

    def test_a_source_of_a_package_is_a_row_like_any(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entries(monkeypatch, "fedlease.sources", mine=f"{__name__}:SOURCE")
        assert known_sources() == {**SOURCES, "mine": SOURCE}
        with pytest.raises(NotImplementedError, match="asked for labels"):
            load_federation(small_settings(data__source="mine").data, 0)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("generation", "FACTS", "is taken"),
            ("near", "PACKAGE", "is PosixPath"),
            ("near", "LOST", "cannot be imported: AttributeError .*'LOST'"),
        ],
    )
    def test_a_name_that_is_taken_and_an_entry_that_is_no_row_are_refused(
        self, name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entries(monkeypatch, "fedlease.tasks", **{name: f"{__name__}:{value}"})
        said = f"^entry points fedlease.tasks: '{name}' of the package .* {message}"
        with pytest.raises(ConfigError, match=said):
            task_class(name)
        with pytest.raises(ConfigError, match=said):
            small_settings(task=name)
        assert known_tasks() == TASKS and small_settings().task == "classification"
