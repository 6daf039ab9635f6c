"""The headline metric is one setting, and goes wherever the headline goes; balanced labels change what is learnt."""

import json
from pathlib import Path

import pytest
from small import rounds_of, small_run, tensors_of

import fedlease
from fedlease.config.tables import TASKS
from fedlease.tasks.registry import task_class


@pytest.mark.parametrize("metric", ["macro_f1", "mcc"])
def test_the_headline_is_that_of_the_settings_everywhere(metric: str, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", metric=metric, baselines=["local"])
    for summary in run.summaries.values():
        rows = summary["per_client"]
        scores = {client: row[metric] for client, row in rows.items()}
        assert summary["metric"] == metric
        assert summary["mean"] == pytest.approx(sum(scores.values()) / len(scores))
        assert summary["worst_client"][metric] == min(scores.values())
        assert summary["mean_accuracy"] == pytest.approx(sum(row["accuracy"] for row in rows.values()) / len(rows))
        assert f"mean_{metric}" not in summary
        # A constant guess is not correlated with anything.
        assert all(row["majority"] == 0 for row in rows.values()) or metric == "macro_f1"
    shares = json.loads((run.out / "row_scores.json").read_text())
    for client, row in run.summary["per_client"].items():
        values = [float(value) for value in shares[client]]
        assert sum(values) / len(values) == pytest.approx(row[metric], abs=1e-5)
    for line in rounds_of(run.out):
        for entry in line["clients"].values():
            assert entry["score"] == entry["metrics"][metric]
            assert entry["metrics"].keys() == {"accuracy", "macro_f1", "mcc"}
    page = (run.out / "report.html").read_text()
    assert f"scored by {'macro F1' if metric == 'macro_f1' else 'MCC'}" in page


def test_a_headline_changes_no_model_and_no_other_score(tmp_path: Path) -> None:
    plain, other = (small_run(tmp_path / name, rounds=1, baselines=[], **more) for name, more in
                    (("plain", {}), ("other", {"metric": "macro_f1"})))  # fmt: skip
    assert tensors_of(plain.out) == tensors_of(other.out)
    for client, row in plain.summary["per_client"].items():
        names = ("accuracy", "macro_f1", "mcc", "loss")
        assert [row[name] for name in names] == [other.summary["per_client"][client][name] for name in names]


def test_balanced_labels_change_what_is_learnt(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    for client in ("one", "two", "three"):
        (rows / client).mkdir(parents=True)
        for split in ("train", "test"):
            lines = [{"text": f"{client} {split} {i}", "label": "rare" if i % 6 == 0 else "usual"} for i in range(12)]
            (rows / client / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = {}
    for weights in ("none", "balanced"):
        run = fedlease.run(
            preset="smoke", out=tmp_path / weights, threads=1, rounds=1, device="cpu", baselines=[],
            **{"data.path": rows, "train.class_weights": weights, "method": "fedlease-plus"},
        )  # fmt: skip
        losses = [[entry["loss"] for entry in line["clients"].values()] for line in rounds_of(run.out)]
        found[weights] = run.summary["classes"]["one"]["support"], losses
    assert found["none"][0] == found["balanced"][0] == [2, 10]
    assert found["none"][1] != found["balanced"][1]


@pytest.mark.parametrize("task", TASKS)
def test_the_table_names_the_metrics_that_the_task_has_words_for(task: str) -> None:
    cls = task_class(task)
    assert TASKS[task].metrics == tuple(cls.headlines) and TASKS[task].metrics[0] == cls.metric
    assert {*cls.headlines} <= {*cls.metrics}


def test_generation_by_exact_match(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", task="generation", metric="exact_match", rounds=1, baselines=[], **{
        "data.max_tokens": 48, "data.clients_per_task": 1})  # fmt: skip
    assert run.summary["metric"] == "exact_match" and "mean_rouge1" in run.summary
