"""Planted federations: tasks that differ by words, labels that follow from the text alone."""

from collections import Counter
from typing import Any

import pytest

from fedlease.config import DataSettings
from fedlease.data import load_federation
from fedlease.data.federation import Federation
from fedlease.data.synthetic import NUM_TASKS, planted
from fedlease.errors import DataError


def make(seed: int = 0, **options: Any) -> Federation:
    return load_federation(DataSettings(source="synthetic", **options), seed)


def test_sizes_names_and_labels() -> None:
    federation = make(clients_per_task=2)
    assert list(federation.clients) == [f"planted-{task}-{n}" for task in range(NUM_TASKS) for n in range(2)]
    for client in federation:
        assert (len(client.train), len(client.valid), len(client.test)) == (32, 0, 16)
        assert client.labels == (("low", "middle", "high") if client.task == "planted-3" else ("low", "high"))
        counts = Counter(row.label for row in client.train)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert all(row.pair is None and len(row.text) <= 24 for row in (*client.train, *client.test))
    assert federation.warnings == ()


def test_rows_are_distinct_and_no_word_belongs_to_two_tasks() -> None:
    federation = make()
    words: dict[str, set[str]] = {}
    for client in federation:
        words.setdefault(client.task, set()).update(w for row in client.train for w in row.text.split())
    assert sum(map(len, words.values())) == len(set().union(*words.values()))
    texts = [row.text for client in federation for row in (*client.train, *client.test)]
    assert len(texts) == len(set(texts))


def test_one_word_decides_the_label() -> None:
    # a word is a signal of one label when all train rows that hold it have that label; each test row holds one
    federation = make(train_rows=200)
    for task in {client.task for client in federation}:
        members = [client for client in federation if client.task == task]
        by_word: dict[str, Counter[int]] = {}
        for row in (row for client in members for row in client.train):
            for word in row.text.split():
                by_word.setdefault(word, Counter())[row.label] += 1
        signal = {word: next(iter(labels)) for word, labels in by_word.items() if len(labels) == 1}
        assert 0 < len(signal) <= 9
        for row in (row for client in members for row in client.test):
            assert {signal[word] for word in row.text.split() if word in signal} == {row.label}


def test_the_seed_determines_the_rows() -> None:
    assert make(0).fingerprint() == make(0).fingerprint() != make(1).fingerprint()


def test_the_number_of_tasks_is_free() -> None:
    federation = planted(DataSettings(source="synthetic", clients_per_task=1, valid_fraction=0.25), 0, num_tasks=7)
    assert [client.task for client in federation] == [f"planted-{n}" for n in range(7)]
    assert all((len(client.train), len(client.valid)) == (24, 8) for client in federation)


def test_limits_are_errors() -> None:
    with pytest.raises(DataError, match=r"at most 4000 rows per task, got 4 clients .* x \(1000 \+ 16\) rows"):
        make(train_rows=1000)
    with pytest.raises(DataError, match=r"data\.source 'synthetic' has 'natural' clients only, got 'dirichlet'"):
        make(partition="dirichlet")
