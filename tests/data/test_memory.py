"""Rows in memory: every form gives the rows that files give, and every fault says where it is."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pytest

from fedlease.config.data import ColumnSettings, DataSettings, LimitSettings
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.load import load_federation
from fedlease.errors import DataError

GOOD = [{"text": f"row {number}", "label": number % 2} for number in range(6)]
TEST = [{"text": "new 0", "label": 0}, {"text": "new 1", "label": 1}]
BOTH = [{**row, "site": site} for site in ("a", "b") for row in [{**r, "text": f"{site} {r['text']}"} for r in GOOD]]
SITE = ColumnSettings(client="site")


def load(data: Any, seed: int = 0, task: str = "classification", **options: Any) -> Federation:
    return load_federation(DataSettings(source="memory", **options), seed, task, data)


def faults(data: Any, task: str = "classification", **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load(data, task=task, **options)
    return [fault for fault in caught.value.faults if not fault.startswith("data.bad_rows=drop")]


def texts(client: ClientData) -> dict[str, list[str]]:
    return {split: [row.text for row in rows] for split, rows in client.splits.items()}


FORMS: dict[str, Any] = {
    "list": lambda rows: rows,
    "tuple": tuple,
    "pandas": pd.DataFrame,
    "pyarrow": pyarrow.Table.from_pylist,
    "datasets": datasets.Dataset.from_list,
    "torch format": lambda rows: datasets.Dataset.from_list(rows).with_format("numpy"),
    "numpy values": lambda rows: [{"text": np.str_(row["text"]), "label": np.int64(row["label"])} for row in rows],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_rows_that_files_give(form: str, tmp_path: Path) -> None:
    for split, rows in (("train", GOOD), ("test", TEST)):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    from_files = load_federation(DataSettings(path=tmp_path), 0)
    found = load({"a": (FORMS[form](GOOD), FORMS[form](TEST))})
    assert found.clients == from_files.clients
    assert found.fingerprint() == from_files.fingerprint()


def test_splits_may_be_a_pair_or_named_and_rows_without_test_are_split_here() -> None:
    pair = load({"a": (GOOD, TEST)})
    named = load(
        {"a": datasets.DatasetDict(train=datasets.Dataset.from_list(GOOD), test=datasets.Dataset.from_list(TEST))}
    )
    assert pair.clients == named.clients == load({"a": {"test": TEST, "train": GOOD}}).clients
    assert texts(load({"a": {"train": GOOD, "validation": TEST, "test": TEST}}).clients["a"])["valid"] == [
        "new 0",
        "new 1",
    ]
    # A fifth of six rows, rounded, is one.
    held_out = load({"a": GOOD})
    assert [len(rows) for rows in texts(held_out.clients["a"]).values()] == [5, 0, 1]
    assert held_out.warnings == ()
    mixed = load({"a": GOOD, "b": (GOOD, TEST)})
    assert "client 'a': brings no test rows, so 1 of its 6 train rows are held out" in " ".join(mixed.warnings)


def test_one_table_has_a_client_column_and_perhaps_a_split_column() -> None:
    by_client = {site: [row for row in BOTH if row["site"] == site] for site in ("a", "b")}
    assert load(pd.DataFrame(BOTH), columns=SITE).clients == load(by_client).clients
    split = [{**row, "split": "test" if number % 6 > 3 else "train"} for number, row in enumerate(BOTH)]
    found = load(split, columns=SITE)
    assert texts(found.clients["b"])["test"] == ["b row 4", "b row 5"]
    halves = {name: datasets.Dataset.from_list([r for r in split if r["split"] == name]) for name in ("train", "test")}
    assert load(datasets.DatasetDict(halves), columns=SITE).clients == found.clients
    # A client's own rows may state their split, too.
    assert load({"b": [row for row in split if row["site"] == "b"]}).clients["b"] == found.clients["b"]


def test_rows_without_a_client_column_are_dealt_like_those_of_a_file() -> None:
    pytest.importorskip("flwr_datasets")
    rows = [{"text": f"row {number}", "label": number % 2} for number in range(60)]
    found = load(rows, partition="dirichlet", alpha=10.0, clients_per_task=3)
    assert list(found.clients) == ["client-0", "client-1", "client-2"]


def test_names_of_a_class_label_are_its_labels() -> None:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    rows = datasets.Dataset.from_list(GOOD, features=features)
    assert load({"a": rows}).clients["a"].labels == ("no", "yes")
    unknown = datasets.Dataset.from_list([*GOOD, {"text": "x", "label": -1}], features=features)
    assert faults({"a": unknown}) == ["data['a'], row 7, column 'label': a label must not be empty, got None"]


def test_clients_may_be_numbers_and_categories_and_missing_values_are_read() -> None:
    frame = pd.DataFrame(BOTH).assign(site=[1] * 6 + [2] * 6)
    frame["label"] = frame["label"].map({0: "no", 1: "yes"}).astype("category")
    frame["text_pair"] = np.nan
    found = load(frame, columns=SITE)
    assert list(found.clients) == ["1", "2"]
    assert found.clients["1"].labels == ("no", "yes") and found.clients["1"].train[0].text_pair is None
    assert list(load({0: GOOD, 1: GOOD}).clients) == ["0", "1"]


def test_chats_and_prompts_are_read_as_those_of_files() -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n}"}]}
        for n in range(5)
    ]
    pairs = [{"prompt": f"q {n}", "response": f"a {n}"} for n in range(5)]
    expected = load({"a": pairs}, task="generation")
    for rows in (chats, pd.DataFrame(chats), datasets.Dataset.from_list(chats)):
        assert load({"a": rows}, task="generation").clients == expected.clients


class TestAFederation:
    ROWS = tuple(Row(f"text {n}", None, n % 2) for n in range(10))
    CLIENT = ClientData("a", "mood", ("yes", "no"), ROWS[:6], (), ROWS[6:])

    def test_is_taken_as_it_is(self) -> None:
        given = Federation.of([self.CLIENT], ["as it came"], {"b": "no rows"})
        found = load(given)
        assert found.clients == given.clients and found.skipped == {"b": "no rows"}
        assert "as it came" in found.warnings

    def test_obeys_limits_and_validation_rows_and_refuses_what_it_would_not_read(self) -> None:
        given = Federation.of([self.CLIENT])
        found = load(given, train_rows=4, valid_fraction=0.5).clients["a"]
        assert (len(found.train), len(found.valid), len(found.test)) == (2, 2, 4)
        assert faults(given, labels=("yes", "no")) == [
            "data.labels: it is not read, since the clients of a Federation have rows and labels; leave it out"
        ]

    def test_rows_that_no_model_can_take_are_faults(self) -> None:
        bad = ClientData("a/b", "mood", ("yes",), (Row("", None, 0), Row("x", None, 3)), (), ())
        assert faults(Federation.of([bad])) == [
            "client 'a/b': an id must not contain /, \\, NUL or another control character",
            "data['a/b']['train'], row 1: a text must not be empty, got ''",
            "data['a/b']['train'], row 2: a label must be below the number of the client's labels, 1, got 3",
        ]
        assert faults(Federation.of([self.CLIENT]), task="generation")[0] == (
            "data['a']['train'], row 1: a response must not be empty, got None; 9 more like it: row 2; row 3; row 4; "
            "row 5; row 6 ..."
        )


ROWS = "rows must be a list of dicts, a DataFrame or a Dataset, got"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "data: it has no clients"),
        ([], "data: it has no rows"),
        (5, f"data: {ROWS} an int"),
        ({"a": iter(GOOD)}, f"data['a']: {ROWS} a list_iterator"),
        ({"a": "x.csv"}, f"data['a']: {ROWS} a str; pass the path of files as data='my-federation'"),
        ({"a": ["one text"]}, "data['a'], row 1: a row must be a dict of column and value, got a str"),
        (
            {"a": {"good": GOOD}},
            "data['a']: must be rows, (train, test), or a mapping of 'train', 'valid' and 'test', got 'good'",
        ),
        ({"a": []}, "client 'a': no train rows in data"),
        ({"a": GOOD, 2.5: GOOD, None: GOOD}, "data: client None is no name; clients are the keys of data"),
        ({0: GOOD, "0": GOOD}, "data: client '0' is named twice; clients are the keys of data"),
        (
            {"a": (GOOD, [{"text": "x", "label": 7}])},
            "data['a']['test'], row 1, column 'label': client 'a' has no train row with the label '7'; its labels are "
            "'0', '1'",
        ),
        (
            {"a": [{"text": " ", "label": 1}, *GOOD]},
            "data['a'], row 1, column 'text': a text must not be empty, got ' '",
        ),
        (
            {"train": GOOD, "test": TEST},
            "data: 'train', 'test' are splits, whose rows need a column 'client' that names the client "
            "(data.columns.client); or pass {client: rows}",
        ),
        (
            GOOD,
            "data: no column 'client'; set data.columns.client to the column that names the client (it has 'text', "
            "'label'), or data.partition=dirichlet to deal the rows to clients",
        ),
        ({"a": pd.DataFrame([[1, 2]], columns=["text", "text"])}, "data['a']: columns named twice: 'text'"),
    ],
)
def test_a_fault_names_the_client_the_row_and_the_value(data: Any, fault: str) -> None:
    assert faults(data)[0] == fault


def test_columns_with_other_names_are_suggested_as_python_writes_them() -> None:
    rows = [{"note": f"a longer text {number}", "urgency": ["low", "high"][number % 2]} for number in range(20)]
    assert faults({"a": rows})[-1] == (
        "The rows seem to have the texts in 'note' and the labels in 'urgency': add data__columns__text='note', "
        "data__columns__label='urgency'."
    )


def test_a_partition_is_refused_where_data_has_its_clients() -> None:
    assert faults({"a": GOOD}, partition="dirichlet") == [
        "data.partition: 'dirichlet' deals rows without a client column to clients, but data has its clients; use "
        "'natural'"
    ]


def test_clients_with_unusable_rows_may_be_skipped() -> None:
    found = load({"a": GOOD, "b": [{"text": "", "label": 1}]}, clients="skip")
    assert list(found.clients) == ["a"]
    assert found.skipped == {"b": "data['b'], row 1, column 'text': a text must not be empty, got ''"}


def test_limits_of_files_are_limits_of_memory() -> None:
    assert faults({"a": GOOD}, limits=LimitSettings(rows=5)) == [
        "data['a'], row 6: the file has more rows than the 5 of data.limits.rows"
    ]


def test_the_source_and_the_rows_come_together() -> None:
    with pytest.raises(DataError, match=r"'memory' reads rows that are passed in Python, as in fedlease\.run"):
        load(None)
    with pytest.raises(DataError, match=r"rows in memory are not read when data\.source is 'synthetic'"):
        load_federation(DataSettings(source="synthetic"), 0, "classification", {"a": GOOD})
