"""Scores by class in ``summary.json``, and the warning about classes that are never predicted."""

import json

from small import small_run

from fedlease.storage.class_scores import ClassScores, never_predicted, never_predicted_note

SKEWED = ClassScores.of([[0, 0, 48], [1, 0, 2]], ("normal", "urgent"))


def test_the_form_is_the_documented_one():
    assert SKEWED.content == {
        "labels": ["normal", "urgent"],
        "support": [48, 2],
        "predicted": [50, 0],
        "precision": [0.96, None],
        "recall": [1.0, 0.0],
        "f1": [0.979592, 0.0],
        "confusion": [[48, 0], [2, 0]],
    }
    assert SKEWED.rows()[1] == {
        "label": "urgent", "support": 2, "predicted": 0, "precision": None, "recall": 0.0, "f1": 0.0,
    }  # fmt: skip


def test_a_class_with_test_rows_that_is_never_predicted_is_named_with_client_and_count():
    fine = ClassScores.of([[0, 0, 1], [1, 1, 1]], ("a", "b"))
    absent = ClassScores.of([[0, 0, 3]], ("a", "b"))
    found = {"ward": fine, "radiology": SKEWED, "lab": absent}
    assert list(never_predicted(found)) == [("radiology", "urgent", 2, 50)]
    assert never_predicted_note(found) == (
        "never predicted, although test rows have it: 'urgent' by client 'radiology' (2 of its 50 test rows)"
    )
    assert never_predicted_note({"ward": fine, "lab": absent}) == ""


def test_many_labels_keep_their_scores_without_the_matrix():
    labels = tuple(map(str, range(101)))
    found = ClassScores.of([[0, 100, 1]], labels)
    assert found.confusion == [] and found.support[0] == 1 and found.predicted[100] == 1


def test_a_run_writes_every_clients_classes_and_warns(tmp_path):
    result = small_run(tmp_path / "run", baselines=["local"])
    for method, folder in (("fedlease", tmp_path / "run"), ("local", tmp_path / "run/baselines/local")):
        summary = json.loads((folder / "summary.json").read_text())
        cards = json.loads((tmp_path / "run/clients.json").read_text())
        assert summary["classes"].keys() == summary["per_client"].keys()
        missed = 0
        for client, found in summary["classes"].items():
            scores = summary["per_client"][client]
            assert found["labels"] == cards[client]["labels"]
            assert sum(found["support"]) == scores["num_test"] == sum(map(sum, found["confusion"]))
            right = sum(row[i] for i, row in enumerate(found["confusion"]))
            assert right / scores["num_test"] == scores["accuracy"]
            missed += sum(s > 0 and p == 0 for s, p in zip(found["support"], found["predicted"], strict=True))
        assert missed == 0 or any(w.startswith("never predicted") for w in summary["warnings"])
        assert result.summaries[method]["classes"] == summary["classes"]
