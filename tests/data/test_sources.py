"""The one entry: which source serves which task."""

from pathlib import Path
from typing import Any

import pytest

from fedlease.config.settings import DataSettings
from fedlease.data.load import load_federation
from fedlease.errors import DataError


def faults(task: Any, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_federation(DataSettings(**options), 0, task)
    return list(caught.value.faults)


@pytest.mark.parametrize("source", ["glue", "quickstart"])
def test_sources_of_labels_refuse_generation(source: str) -> None:
    assert faults("generation", source=source) == [
        f"data.source: '{source}' has labels and no responses, so task 'generation' cannot be trained on it; "
        "use 'folder', 'flan' or 'synthetic'"
    ]


def test_flan_refuses_classification() -> None:
    assert faults("classification", source="flan") == [
        "data.source: 'flan' has responses and no labels; set task=generation to train on it"
    ]


@pytest.mark.parametrize("partition", ["dirichlet", "task-and-label"])
def test_label_skew_is_refused_for_generation(partition: str, tmp_path: Path) -> None:
    rule = f"data.partition: '{partition}' skews labels, and rows of task 'generation' have none; use 'natural'"
    for source in ("folder", "flan", "synthetic"):
        assert faults("generation", source=source, partition=partition, path=tmp_path) == [rule]
    assert faults("generation", source="glue", partition=partition)[1:] == [rule]


def test_a_task_is_classification_unless_said() -> None:
    settings = DataSettings(source="synthetic", clients_per_task=1)
    assert (
        load_federation(settings, 0).fingerprint()
        == load_federation(settings, 0, "classification").fingerprint()
        != load_federation(settings, 0, "generation").fingerprint()
    )
