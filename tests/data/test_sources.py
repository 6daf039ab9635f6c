"""The one entry: which source serves which task."""

from pathlib import Path
from typing import Any

import pytest

from fedlease.config.data import DataSettings
from fedlease.config.tables import SOURCES, TASKS
from fedlease.data.load import load_federation
from fedlease.errors import DataError


def faults(task: Any, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_federation(DataSettings(**options), 0, task)
    return list(caught.value.faults)


@pytest.mark.parametrize("source", ["glue", "quickstart"])
def test_sources_of_labels_refuse_generation(source: str) -> None:
    assert faults("generation", source=source) == [
        f"data.source: '{source}' has labels and no responses, so task 'generation' cannot be trained on it; set "
        "task=classification, or use 'folder' or 'memory' or 'flan' or 'synthetic'"
    ]


def test_flan_refuses_classification() -> None:
    assert faults("classification", source="flan") == [
        "data.source: 'flan' has responses and no labels, so task 'classification' cannot be trained on it; set "
        "task=generation, or use 'folder' or 'memory' or 'glue' or 'quickstart' or 'synthetic'"
    ]


@pytest.mark.parametrize("partition", ["dirichlet", "task-and-label"])
def test_label_skew_is_refused_for_generation(partition: str, tmp_path: Path) -> None:
    rule = f"data.partition: '{partition}' skews labels, and rows of task 'generation' have none; use 'natural'"
    for source in ("folder", "flan", "synthetic"):
        path = None if source == "synthetic" else tmp_path
        assert faults("generation", source=source, partition=partition, path=path) == [rule]
    assert faults("generation", source="glue", partition=partition)[1:] == [rule]


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_setting_that_a_source_does_not_read_is_refused(source: str, tmp_path: Path) -> None:
    facts = SOURCES[source]
    task = next(name for name in TASKS if TASKS[name].rows in facts.rows)
    given = {"partition": "dirichlet", "share_rows": True, "labels": ("a", "b"), "path": tmp_path}
    obeyed = {"partition": facts.partitions, "share_rows": facts.shares, "labels": facts.labels}
    obeyed["path"] = facts.path != "not read"
    for key, value in given.items():
        if not obeyed[key]:
            assert faults(task, source=source, **{key: value})[0].startswith(f"data.{key}: "), (source, key)


def test_a_task_is_classification_unless_said() -> None:
    settings = DataSettings(source="synthetic", clients_per_task=1)
    assert (
        load_federation(settings, 0).fingerprint()
        == load_federation(settings, 0, "classification").fingerprint()
        != load_federation(settings, 0, "generation").fingerprint()
    )
