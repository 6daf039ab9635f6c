"""Rows with any number of labels or with a number, in every form that files and programs have."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedlease.config.data import DataSettings
from fedlease.config.settings import resolve
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.load import load_federation
from fedlease.data.reading.targets import joined_by, number_of
from fedlease.errors import ConfigError, DataError
from fedlease.runs.initial import understand

SETS = [["a", "b"], ["b"], [], ["c"], ["a"], ["c", "b"], ["a"], ["b"]]


def folder(root: Path, rows: list[str], name: str = "rows.csv") -> Path:
    for client in ("one", "two"):
        (root / client).mkdir(parents=True)
        (root / client / name).write_text("\n".join(rows) + "\n")
    return root


def loaded(path: Path, task: str, **data: Any) -> Federation:
    return load_federation(DataSettings(path=path, test_fraction=0.25, **data), 0, task)


def truths(federation: Federation, client: str = "one") -> dict[str, Any]:
    own = federation.clients[client]
    return {row.text: own.truth(row) for row in (*own.train, *own.test)}


class TestLabelSets:
    FORMS: tuple[tuple[str, list[str], dict[str, Any]], ...] = (
        ("rows.jsonl", [json.dumps({"text": f"t{i}", "label": names}) for i, names in enumerate(SETS)], {}),
        ("rows.csv", ["text,label", *(f't{i},"{", ".join(names)}"' for i, names in enumerate(SETS))], {}),
        (
            "rows.csv",
            ["text,label", *(f"t{i},{'|'.join(names)}" for i, names in enumerate(SETS))],
            {"label_separator": "|"},
        ),
        (
            "rows.csv",
            ["text;label", *(f"t{i};{json.dumps(names)}".replace('"', "'") for i, names in enumerate(SETS))],
            {"json": True},
        ),
        (
            "rows.csv",
            ["text,c,a,b", *(f"t{i},{','.join(str(int(k in names)) for k in 'cab')}" for i, names in enumerate(SETS))],
            {"columns": {"labels": ("c", "a", "b")}},
        ),
    )

    @pytest.mark.parametrize(("name", "lines", "data"), FORMS)
    def test_every_form_gives_the_same_rows(
        self, name: str, lines: list[str], data: dict[str, Any], tmp_path: Path
    ) -> None:
        data = dict(data)
        if data.pop("json", False):  # as JSON in a cell, with the quotes that CSV doubles
            lines = [line.replace("'", '""').replace(";[", ';"[').replace("]", ']"') for line in lines]
        found = loaded(folder(tmp_path / "rows", lines, name), "multilabel", **data)
        expected = {f"t{i}": sorted(names) for i, names in enumerate(SETS)}
        assert {text: sorted(names) for text, names in truths(found).items()} == expected
        assert found.clients["one"].labels == (("c", "a", "b") if "columns" in data else ("a", "b", "c"))
        assert found.clients["one"].kind == "label sets" and found.clients["one"].weight

    def test_each_label_keeps_a_train_row(self, tmp_path: Path) -> None:
        rows = [json.dumps({"text": f"t{i}", "label": ["often"] if i else ["often", "once"]}) for i in range(20)]
        found = loaded(folder(tmp_path / "rows", rows, "rows.jsonl"), "multilabel").clients["one"]
        assert len(found.test) == 5 and found.by_label == {"often": (15, 5), "once": (1, 0)}

    @pytest.mark.parametrize(
        ("label", "rule"),
        [
            (None, "is missing; a row without labels has an empty list"),
            (3, "must be a list of labels, or a text with ',' between them, got 3"),
            (["a", ""], "a label must not be empty, got ''"),
            (["a", ["b"]], "a label must be a name or a number, got ['b']"),
            ('["a", ', "must be a list of labels, or a text with ',' between them, got '[\"a\", '"),
        ],
    )
    def test_what_is_no_list_of_labels_is_a_fault(self, label: Any, rule: str, tmp_path: Path) -> None:
        rows = [json.dumps({"text": "x", "label": ["a"]}), json.dumps({"text": "y", "label": label})]
        with pytest.raises(DataError) as caught:
            loaded(folder(tmp_path / "rows", rows, "rows.jsonl"), "multilabel")
        assert f"line 2, column 'label': {rule}" in str(caught.value)

    def test_flags_are_0_or_1(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"line 2, column 'b': must be 0 or 1, got '2'"):
            loaded(folder(tmp_path / "rows", ["text,a,b", "x,1,2"]), "multilabel", columns={"labels": ("a", "b")})

    def test_labels_in_one_text_are_told_where_they_are_read_as_one(self, tmp_path: Path) -> None:
        rows = ["text,label", *(f"t{i},{'; '.join(names)}" for i, names in enumerate(SETS * 3) if names)]
        path = folder(tmp_path / "rows", rows)
        hint = "its labels look like several in one text, with ';' between them; to "
        plain, sets = (loaded(path, task).warnings for task in ("classification", "multilabel"))
        assert any(f"{hint}learn each of them set task=multilabel and data.label_separator" in note for note in plain)
        assert any(f"{hint}split them set data.label_separator, which is ','" in note for note in sets)
        assert joined_by({"a, b": 3, "c, d": 3}) == "", "no part recurs"

    def test_settings_of_sets_are_refused_elsewhere(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "rows", ["text,label", "x,1", "y,2"])
        with pytest.raises(
            DataError, match=r"data.label_separator: it is read only if task is multilabel, and task is 'regr"
        ):
            loaded(path, "regression", label_separator=";")
        with pytest.raises(
            DataError, match=r"data.columns.labels: it is read only if task is multilabel, and task is 'classif"
        ):
            loaded(path, "classification", columns={"labels": ("a", "b")})
        with pytest.raises(DataError, match=r"data.partition: 'dirichlet' skews labels, and rows of task 'multilabel'"):
            loaded(path, "multilabel", partition="dirichlet")
        with pytest.raises(ConfigError, match=r"data.columns.labels: must be two columns or more, each once"):
            resolve(overrides=["data.columns.labels=[a,a]"])

    def test_lists_of_class_label_numbers_are_their_names(self) -> None:
        datasets = pytest.importorskip("datasets")
        names = datasets.Sequence(datasets.ClassLabel(names=["joy", "fear"]))
        features = datasets.Features({"text": datasets.Value("string"), "label": names})
        rows = {"text": ["x", "y", "z", "w"], "label": [[0], [0, 1], [], [1]]}
        data = {client: datasets.Dataset.from_dict(rows, features=features) for client in ("a", "b")}
        found = load_federation(DataSettings(source="memory", test_fraction=0.25), 0, "multilabel", data)
        assert truths(found, "a") == {"x": ["joy"], "y": ["joy", "fear"], "z": [], "w": ["fear"]} or truths(
            found, "a"
        ) == {"x": ["joy"], "y": ["fear", "joy"], "z": [], "w": ["fear"]}


class TestValues:
    def test_numbers_are_taken_from_cells_and_json_alike(self, tmp_path: Path) -> None:
        lines = ["text,label", "a,1.5", "b, -2 ", "c,1e3", "d,4"]
        found = loaded(folder(tmp_path / "csv", lines), "regression")
        assert truths(found) == {"a": 1.5, "b": -2.0, "c": 1000.0, "d": 4.0}
        own = found.clients["one"]
        mean = sum(row.value or 0 for row in own.train) / len(own.train)
        assert (own.labels, own.kind) == (("value",), "values") and own.scale is not None
        assert own.scale[0] == pytest.approx(mean) and own.card().scale == own.scale

    @pytest.mark.parametrize("value", ["1,5", "high", "1_000", "nan", "inf", "2e12", True, None, [1]])
    def test_what_is_no_number_is_a_fault(self, value: Any, tmp_path: Path) -> None:
        assert number_of(value) is None
        rows = [json.dumps({"text": "x", "label": 1}), json.dumps({"text": "y", "label": value})]
        with pytest.raises(DataError, match=r"line 2, column 'label': must be a finite number of at most 1e\+12, got "):
            loaded(folder(tmp_path / "rows", rows, "rows.jsonl"), "regression")

    def test_names_of_classes_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="The labels seem to be no numbers: set task=class"):
            loaded(folder(tmp_path / "rows", ["text,label", "x,low", "y,high"]), "regression")

    def test_a_client_of_one_number_learns_nothing_and_is_named(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "rows", ["text,label", *(f"t{i},{i}" for i in range(8))])
        (path / "three").mkdir()
        (path / "three" / "rows.csv").write_text("text,label\n" + "".join(f"u{i},2.5\n" for i in range(8)))
        found = loaded(path, "regression")
        assert (found.clients["three"].weight, found.clients["one"].weight) == (0, 6)
        assert any(
            "client 'three': all train rows have the value 2.5, whatever their texts: it learns nothing" in n
            for n in found.warnings
        )
        with pytest.raises(DataError, match=r"task 'default': every row has the value 2.5; at least two values are"):
            flat = folder(tmp_path / "flat", ["text,label", *(f"t{i},2.5" for i in range(8))])
            loaded(flat, "regression")

    def test_rows_that_differ_in_their_number_alone_have_other_fingerprints(self) -> None:
        def print_of(**target: Any) -> str:
            row = Row("x", None, 0, **target)
            return Federation.of([ClientData("a", "t", ("b", "c"), (row,), (), ())]).fingerprint()

        prints = [print_of(value=1.0), print_of(value=2.0), print_of(marks=()), print_of(marks=(1,)), print_of()]
        assert len({*prints}) == 5


class TestInit:
    def test_the_form_of_labels_decides_the_task(self, tmp_path: Path) -> None:
        notes = [f"a note of words number {i}" for i in range(40)]
        sets = [SETS[i % len(SETS)] for i in range(40)]
        forms: dict[str, tuple[list[str], str, dict[str, Any]]] = {
            "joined": (
                ["note,findings", *(f'{n},"{"; ".join(s)}"' for n, s in zip(notes, sets, strict=True))],
                "multilabel",
                {"label_separator": ";"},
            ),
            "flags": (
                ["note,a,b", *(f"{n},{int('a' in s)},{int('b' in s)}" for n, s in zip(notes, sets, strict=True))],
                "multilabel",
                {},
            ),
            "days": (["note,days", *(f"{n},{i / 7:.3f}" for i, n in enumerate(notes))], "regression", {}),
        }
        for name, (lines, task, stated) in forms.items():
            found = understand(folder(tmp_path / name, lines))
            assert found.settings.task == task, name
            assert {key: getattr(found.settings.data, key) for key in stated} == stated
            assert (found.settings.data.columns.labels == ("a", "b")) == (name == "flags")
        assert "task: regression" in found.text and "measurements in 'days'" in found.text

    def test_tags_of_tokens_are_no_task(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"client": c, "tokens": ["a", "b"], "tags": [0, 1]}) + "\n" for c in "abab"))
        with pytest.raises(DataError, match=r"look like lists of tokens with a tag each.* There is no task for"):
            understand(path)
