"""Planted federations: tasks that differ by words, labels that follow from the text alone."""

from collections import Counter
from typing import Any

import pytest

from fedlease.config.data import DataSettings
from fedlease.data.federation import Federation
from fedlease.data.load import load_federation
from fedlease.data.sources.synthetic import NUM_TASKS, load
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
        assert all(row.text_pair is None and len(row.text) <= 24 for row in (*client.train, *client.test))
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
    federation = load(DataSettings(source="synthetic", clients_per_task=1, valid_fraction=0.25), 0, num_tasks=7)
    assert [client.task for client in federation] == [f"planted-{n}" for n in range(7)]
    assert all((len(client.train), len(client.valid)) == (24, 8) for client in federation)


def test_limits_are_errors() -> None:
    with pytest.raises(DataError, match=r"at most 4000 rows per task, got 4 clients .* x \(1000 \+ 16\) rows"):
        make(train_rows=1000)
    with pytest.raises(DataError, match=r"data\.source 'synthetic' has 'natural' clients only, got 'dirichlet'"):
        make(partition="dirichlet")


def test_each_task_answers_by_its_own_rule() -> None:
    federation = load_federation(DataSettings(source="synthetic", train_rows=60), 0, "generation")
    assert list(federation.clients) == list(make().clients)
    assert federation.warnings == ()
    asked: dict[str, dict[str, list[str]]] = {}
    for client in federation:
        assert (client.labels, len(client.train), len(client.test)) == ((), 60, 16)
        for row in (*client.train, *client.test):
            assert (row.label, row.text_pair, row.turns) == (0, None, ()) and len(row.text) <= 24
            assert row.response is not None
            asked.setdefault(client.task, {}).setdefault(row.response, []).append(row.text)
    for word, texts in asked["planted-0"].items():
        assert all(word in text.split() for text in texts)
        assert not any(other in text.split() for text in texts for other in asked["planted-0"] if other != word)
    assert all(text.split()[0] == word for word, texts in asked["planted-1"].items() for text in texts)
    assert all(text.split()[-1] == word for word, texts in asked["planted-2"].items() for text in texts)
    assert [len(asked[f"planted-{task}"]) for task in range(3)] == [9, 9, 9]
    # 4 x 76 rows, classes in turn: the three answers differ by no more than one row per client and split
    sizes = {word: len(texts) for word, texts in asked["planted-3"].items()}
    assert set(sizes) == {"low", "middle", "high"} and max(sizes.values()) - min(sizes.values()) <= 8
    in_class = {word: {part for text in texts for part in text.split()} for word, texts in asked["planted-3"].items()}
    shared = in_class["low"] & in_class["middle"] & in_class["high"]  # fillers; what is left tells the class
    for word, texts in asked["planted-3"].items():
        assert all(len(set(text.split()) - shared) == 1 for text in texts)
        assert {part for text in texts for part in text.split() if part not in shared}.isdisjoint(
            part for other, parts in in_class.items() if other != word for part in parts
        )


def test_prompts_are_distinct_and_the_seed_determines_them() -> None:
    made = [load(DataSettings(source="synthetic"), seed, kind="responses") for seed in (0, 0, 1)]
    assert made[0].fingerprint() == made[1].fingerprint() != made[2].fingerprint()
    texts = [row.text for client in made[0] for row in (*client.train, *client.test)]
    assert len(texts) == len(set(texts))


def test_as_many_prompts_as_the_limit_allows_are_distinct() -> None:
    # 9^4 = 6561 sentences of signal words, of which at most 4000 are asked for
    settings = DataSettings(source="synthetic", clients_per_task=1, train_rows=3999, test_rows=1)
    federation = load(settings, 0, num_tasks=3, kind="responses")
    assert all(len({row.text for row in (*client.train, *client.test)}) == 4000 for client in federation)
