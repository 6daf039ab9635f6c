"""Clients whose rows cannot be used, clients without test rows, stated label lists, labels that train never shows."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedlease.config.data import DataSettings
from fedlease.config.settings import resolve
from fedlease.core.names import name_of
from fedlease.data.dealing import with_known_labels
from fedlease.data.federation import Federation, Row
from fedlease.data.load import load_federation
from fedlease.data.sources.folder import load_client
from fedlease.errors import ConfigError, DataError

Rows = Sequence[dict[str, Any]]
BOTH = [{"text": f"row {n}", "label": ["no", "yes"][n % 2]} for n in range(6)]
DROPPING = "data.bad_rows=drop goes on without rows that cannot be used, and counts them."
YES = [{"text": f"row {n}", "label": "yes"} for n in range(6)]
TEST = [{"text": "new 0", "label": "no"}, {"text": "new 1", "label": "yes"}]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def folders(root: Path, **clients: tuple[Rows, Rows]) -> Path:
    for client, (train, test) in clients.items():
        for split, rows in (("train", train), ("test", test)):
            if rows:
                write(root / client / f"{split}.jsonl", rows)
    return root


def load(path: Path, task: Any = "classification", **options: Any) -> Federation:
    return load_federation(DataSettings(path=path, **options), 0, task)


def faults(path: Path, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return [fault for fault in caught.value.faults if fault != DROPPING]


class TestUnusableClients:
    @pytest.fixture
    def mixed(self, tmp_path: Path) -> Path:
        """One sound client; one without train rows, one of one row, one unreadable, and one with a bad row."""
        root = folders(tmp_path, sound=(BOTH, TEST), none=([], TEST), one=(BOTH[:1], ()), bad=(BOTH, TEST))
        write(root / "bad/train.jsonl", [*BOTH, {"text": "", "label": "no"}, {"text": "x", "label": None}])
        (root / "torn").mkdir()
        (root / "torn/train.jsonl.gz").write_bytes(b"no gzip")
        return root

    def test_required_clients_are_all_named_at_once(self, mixed: Path) -> None:
        found = "\n".join(faults(mixed, min_train_rows=2))
        assert "client 'none': no train rows" in found
        assert "client 'one': it has 1 train row, and data.min_train_rows asks for 2" in found
        assert f"{mixed}/torn/train.jsonl.gz: cannot be read" in found
        assert f"{mixed}/bad/train.jsonl, line 7, column 'text': a text must not be empty" in found
        assert "sound" not in found

    def test_skipped_clients_are_named_with_the_first_fault_of_each(self, mixed: Path) -> None:
        federation = load(mixed, clients="skip", min_train_rows=2)
        assert list(federation.clients) == ["sound"]
        assert sorted(federation.skipped) == ["bad", "none", "one", "torn"]
        assert federation.skipped["bad"].endswith("got '' (and 1 more fault)")
        assert federation.skipped["one"] == "client 'one': it has 1 train row, and data.min_train_rows asks for 2"
        assert not any("'one'" in warning for warning in federation.warnings), (
            "nothing more is said of a skipped client"
        )

    def test_without_a_usable_client_nothing_is_skipped_in_silence(self, tmp_path: Path) -> None:
        root = folders(tmp_path, a=([], TEST), b=(BOTH[:1], TEST[:1]))
        found = faults(root, clients="skip", min_train_rows=2)
        assert len(found) == 2 and "'a'" in found[0] and "'b'" in found[1]

    def test_more_faults_than_are_listed_still_name_every_client(self, tmp_path: Path) -> None:
        empty = [{"text": "", "label": "no"}, {"text": " ", "label": None}, {"label": "no"}]
        root = folders(tmp_path, **{f"c{n:02}": ([*BOTH, *empty], TEST) for n in range(30)})
        last = faults(root)[-1]
        assert last.startswith("30 clients cannot be used: 'c00', 'c01', ")
        assert last.endswith("'c29'; data.clients=skip goes on without them")

    def test_a_row_of_a_file_of_several_clients_leaves_out_its_own_client_alone(self, tmp_path: Path) -> None:
        rows = [{**row, "client": client} for client in ("a", "b", "c") for row in BOTH]
        rows[7] = {**rows[7], "text": ""}
        rows += [{"text": None, "label": "no", "client": "d"}]
        federation = load(write(tmp_path / "all.jsonl", rows), clients="skip")
        assert list(federation.clients) == ["a", "c"]
        assert "line 8" in federation.skipped["b"] and "line 19" in federation.skipped["d"]
        assert len(faults(tmp_path / "all.jsonl")) == 2

    def test_dealt_clients_need_the_minimum_too(self) -> None:
        settings = DataSettings(source="synthetic", clients_per_task=2, train_rows=12, test_rows=4, min_train_rows=13)
        with pytest.raises(DataError, match="asks for 13") as caught:
            load_federation(settings, 0)
        assert len(caught.value.faults) == 8

    def test_one_client_by_itself_needs_the_minimum(self, tmp_path: Path) -> None:
        root = folders(tmp_path, a=(BOTH, TEST))
        with pytest.raises(DataError, match=r"client 'clinic': it has 6 train rows, and .* asks for 7"):
            load_client(root / "a", "clinic", DataSettings(min_train_rows=7, clients="skip"), 0)


def untested(root: Path, *clients: str) -> Path:
    """Empties the test files of some clients; without a file their rows would be held out of train."""
    for client in clients:
        (root / client / "test.jsonl").write_text("")
    return root


class TestWithoutTestRows:
    def test_a_client_trains_and_is_named(self, tmp_path: Path) -> None:
        federation = load(untested(folders(tmp_path, a=(BOTH, TEST), b=(BOTH, ())), "b"))
        assert federation.clients["b"].test == () and len(federation.clients["b"].train) == 6
        assert "client 'b': no test rows in its files; it trains but is not scored" in federation.warnings

    def test_somebody_who_learns_needs_some(self, tmp_path: Path) -> None:
        assert faults(untested(folders(tmp_path / "none", a=(BOTH, ()), b=(BOTH, ())), "a", "b")) == [
            "client 'a': no test rows in its files",
            "client 'b': no test rows in its files",
        ]
        assert faults(untested(folders(tmp_path / "mute", a=(BOTH, ()), b=(YES, TEST[1:])), "a")) == [
            "no client that can learn has test rows, so nothing could be scored"
        ]

    def test_generation_too(self, tmp_path: Path) -> None:
        chat = [{"prompt": f"ask {n}", "response": "yes"} for n in range(4)]
        federation = load(untested(folders(tmp_path, a=(chat, chat), b=(chat, ())), "b"), task="generation")
        assert len(federation.clients["b"].train) == 4 and not federation.clients["b"].test

    def test_responses_that_are_all_empty_make_a_client_unusable(self, tmp_path: Path) -> None:
        chat = [{"prompt": f"ask {n}", "response": "yes"} for n in range(4)]
        mute = [{**row, "response": ""} for row in chat]
        root = folders(tmp_path, a=(chat, chat), b=(mute, chat))
        assert list(load(root, task="generation", clients="skip").skipped) == ["b"]


class TestLabels:
    def test_a_client_of_one_label_weighs_nothing_and_a_stated_list_lets_it_learn(self, tmp_path: Path) -> None:
        root = folders(tmp_path, a=(BOTH, TEST), b=(YES, TEST[1:]))
        federation = load(root)
        assert [client.weight for client in federation] == [6, 0]
        assert any("client 'b'" in note and "learns nothing" in note for note in federation.warnings)
        stated = load(root, labels=["no", "yes"])
        assert [client.weight for client in stated] == [6, 6] and stated.clients["b"].labels == ("no", "yes")
        assert not any("learns nothing" in note for note in stated.warnings)
        assert stated.clients["b"].card().weight == 6 and federation.clients["b"].card().weight == 0

    def test_a_test_label_unseen_in_train_is_a_fault_unless_the_list_has_it(self, tmp_path: Path) -> None:
        root = folders(tmp_path, a=(BOTH, TEST), b=(YES, TEST))
        assert faults(root) == [
            f"{root}/b/test.jsonl, line 1, column 'label': client 'b' has no train row with the label 'no'; its labels "
            "are 'yes'"
        ]
        federation = load(root, labels=("yes", "no", "maybe"))
        assert federation.clients["b"].labels == ("yes", "no", "maybe")
        assert "client 'b': 1 test row has a label that none of its train rows has: 'no'" in federation.warnings

    def test_a_label_outside_the_list_is_a_fault_with_file_and_line(self, tmp_path: Path) -> None:
        root = folders(tmp_path, a=(BOTH, TEST), b=([*BOTH, {"text": "x", "label": "odd"}], TEST))
        assert faults(root, labels=["no", "yes"]) == [
            f"{root}/b/train.jsonl, line 7, column 'label': the label 'odd' is none of data.labels, which are 'no', "
            "'yes'"
        ]

    def test_lists_by_task(self, tmp_path: Path) -> None:
        about = [{**row, "task": "t"} for row in YES]
        root = folders(tmp_path, a=(BOTH, TEST), b=(about, about[:1]))
        federation = load(root, labels={"t": ["yes", "no", "maybe"]})
        assert federation.clients["a"].labels == ("no", "yes")
        assert federation.clients["b"].labels == ("yes", "no", "maybe")
        assert faults(root, labels={"t": ["yes", "no"], "u": [1, 2]}) == [
            "data.labels: no client has the task 'u'; tasks are 'default', 't'"
        ]

    def test_numbers_and_truth_values_are_the_names_that_rows_have(self, tmp_path: Path) -> None:
        rows = [{"text": str(n), "label": n % 2 == 0} for n in range(4)]
        assert load(folders(tmp_path, a=(rows, rows[:1])), labels=[False, True]).clients["a"].labels == (
            "false",
            "true",
        )
        assert DataSettings(labels=[0, 1.0, "2"]).labels == ("0", "1", "2")
        numbers = [1000000.0, 1234567.5, 0.12345678]
        assert DataSettings(labels=numbers).labels == tuple(name_of(number, typed=True) for number in numbers)
        assert DataSettings(labels=numbers).labels == ("1000000", "1234567.5", "0.12345678")

    @pytest.mark.parametrize(
        ("labels", "rule"),
        [
            (["yes"], "it must hold at least two"),
            (["yes", "yes"], "it must hold 'yes' once"),
            (["yes", ""], "it must hold names or numbers"),
            ("yes", "it must be a list"),
            ({"t": ["yes"]}, "the labels of task 't' must hold at least two"),
            ({"t": None}, "the labels of task 't' must be a list"),
        ],
    )
    def test_faults_of_lists_are_one_sentence(self, labels: Any, rule: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            resolve(preset="smoke", overrides={"data.path": str(tmp_path), "data.labels": labels})
        (fault,) = caught.value.faults
        assert fault.startswith(f"data.labels: must be a list of labels, or task -> list; {rule}, received ")

    def test_a_list_survives_the_yaml_of_the_run(self, tmp_path: Path) -> None:
        for labels in (["a", "b"], {"t": ["a", "b"]}):
            settings = resolve(preset="smoke", overrides={"data.path": str(tmp_path), "data.labels": labels})
            file = tmp_path / "config.yaml"
            file.write_text(settings.to_yaml())
            assert resolve(file) == settings

    def test_lists_are_for_files_of_classification(self) -> None:
        for settings, task, rule in (
            (DataSettings(source="synthetic", labels=["a", "b"]), "classification", "has label lists of its own"),
            (DataSettings(path=Path("x"), labels=["a", "b"]), "generation", "rows of task 'generation' have no labels"),
        ):
            with pytest.raises(DataError, match=rule):
                load_federation(settings, 0, task)  # type: ignore[arg-type]

    def test_dealt_clients_are_tested_on_labels_that_they_train(self, tmp_path: Path) -> None:
        """The rule of files, where fedlease itself splits: of a label's rows one stays in train."""
        pytest.importorskip("flwr_datasets")
        rows = [{"text": f"t{n}", "label": n % 5} for n in range(120)]
        file = write(tmp_path / "all.jsonl", rows)
        for seed in range(6):
            settings = DataSettings(path=file, partition="dirichlet", clients_per_task=6, alpha=0.3, test_fraction=0.5)
            federation = load_federation(settings, seed)
            assert sum(len(client.train) + len(client.test) for client in federation) == 120
            for client in federation:
                assert {row.label for row in client.test} <= {row.label for row in client.train}
                assert client.labels == ("0", "1", "2", "3", "4") and client.weight

    def test_rows_change_places_only_where_a_label_would_be_unknown(self) -> None:
        row = [Row(str(n), None, label) for n, label in enumerate((0, 0, 1, 2, 0, 2))]
        assert with_known_labels(row[:3], row[4:5]) == (row[:3], row[4:5])
        # 2 is not among the train labels 0, 0, 1: the later 0 has a companion and makes room for it.
        train, test = with_known_labels(row[:3], row[3:])
        assert train == [row[0], row[3], row[2]] and test == [row[1], row[4], row[5]]
        # No label can spare a row: the test row goes to train.
        assert with_known_labels(row[1:3], row[3:4]) == (row[1:4], [])
        assert Counter(r.text for r in (*train, *test)) == Counter(r.text for r in row)


class TestDroppedRows:
    @pytest.fixture
    def torn(self, tmp_path: Path) -> Path:
        """A sound client, and one of 6 usable train rows beside 2 broken lines, an empty text and a label of a list."""
        root = folders(tmp_path, sound=(BOTH, TEST), torn=(BOTH, TEST))
        bad = [{"text": " ", "label": None}, {"text": "x", "label": ["no"]}]
        write(root / "torn/train.jsonl", [*BOTH, *bad])
        with (root / "torn/train.jsonl").open("a") as file:
            file.write('{"text": "cut\n[1, 2]\n{"text": "cut again\n')
        return root

    def test_the_rest_is_used_and_every_reason_is_told_with_its_first_place(self, torn: Path) -> None:
        federation = load(torn, bad_rows="drop")
        assert [len(federation.clients[name].train) for name in ("sound", "torn")] == [6, 6]
        (note,) = [note for note in federation.warnings if "data.bad_rows" in note]
        file = torn / "torn/train.jsonl"
        assert note == (
            f"client 'torn': 5 of 13 rows were dropped (data.bad_rows): malformed JSON (2, the first {file}, line 9); "
            f"no JSON object ({file}, line 10); column 'text': a text must not be empty ({file}, line 7); "
            f"column 'label': a label must be a name or a number ({file}, line 8)"
        )

    def test_usable_rows_are_those_of_a_file_without_the_others(self, torn: Path) -> None:
        dropped = load(torn, bad_rows="drop")
        write(torn / "torn/train.jsonl", BOTH)
        assert dropped.fingerprint() == load(torn).fingerprint()

    def test_refusing_is_the_default_and_says_how_to_drop(self, torn: Path) -> None:
        with pytest.raises(DataError) as caught:
            load(torn)
        *found, last = caught.value.faults
        assert len(found) == 6 and any("line 9: malformed JSON" in fault for fault in found)
        assert last == DROPPING

    @pytest.mark.parametrize("clients", ["require", "skip"])
    def test_a_client_of_which_all_rows_are_bad_cannot_be_used(self, torn: Path, clients: str) -> None:
        write(torn / "torn/train.jsonl", [{"text": "", "label": "no"}] * 3)
        words = "it has 0 train rows, and data.min_train_rows asks for 1; 3 of 5 rows were dropped"
        if clients == "require":
            (fault,) = faults(torn, bad_rows="drop")
        else:
            federation = load(torn, bad_rows="drop", clients="skip")
            assert list(federation.clients) == ["sound"] and not federation.warnings
            fault = federation.skipped["torn"]
        assert fault.startswith(f"client 'torn': {words}")

    def test_in_one_file_each_row_is_counted_for_its_client(self, tmp_path: Path) -> None:
        rows = [{**row, "client": client} for client in ("a", "b") for row in BOTH]
        bad = [{"text": "", "label": "no", "client": name} for name in ("b", "c", "")]
        path = write(tmp_path / "all.jsonl", [*rows, *bad[:2], {"text": "x", "label": "no", "client": ""}])
        (fault,) = faults(path, bad_rows="drop")
        assert fault.startswith("client 'c': it has 0 train rows") and "1 of 1 row was dropped" in fault
        federation = load(path, bad_rows="drop", clients="skip")
        told = [note for note in federation.warnings if "data.bad_rows" in note]
        assert [note.partition(" (data")[0] for note in told] == [
            "client 'b': 1 of 7 rows was dropped",
            "1 row of no known client was dropped",
        ]

    def test_cells_a_second_text_and_stated_labels_are_reasons_too(self, tmp_path: Path) -> None:
        lines = ["text,text_pair,label", *(f"row {n},pair {n},{'yes' if n % 2 else 'no'}" for n in range(8))]
        lines[3:3] = ["cut,1", "alone,,yes", "typo,pair,yess"]
        (tmp_path / "a.csv").write_text("\n".join(lines))
        federation = load(
            tmp_path / "a.csv", labels=("no", "yes"), partition="dirichlet", clients_per_task=1, bad_rows="drop"
        )
        assert sum(len(client.train) + len(client.test) for client in federation) == 8
        (note,) = [note for note in federation.warnings if "data.bad_rows" in note]
        assert note.startswith("3 of 11 rows of no known client were dropped")
        assert all(
            reason in note
            for reason in ("more or fewer cells", "no second text", "a label that data.labels does not have")
        )

    def test_a_label_that_was_never_trained_and_a_broken_file_stay_faults(self, tmp_path: Path) -> None:
        root = folders(tmp_path, a=(BOTH, [*TEST, {"text": "new", "label": "maybe"}]), b=(BOTH, TEST))
        (root / "b/test.jsonl").unlink()
        (root / "b/test.csv").write_text('text,label\n"never closed,no\n')
        found = "\n".join(faults(root, bad_rows="drop"))
        assert "no train row with the label 'maybe'" in found and "malformed CSV" in found

    def test_rows_in_memory_are_dropped_and_chats_too(self) -> None:
        from fedlease.data.sources.memory import load as in_memory

        good = [{"prompt": f"ask {n}", "response": "yes"} for n in range(4)]
        bad = [{"prompt": [{"role": "robot", "content": "x"}], "response": "no"}, "no dict", {"prompt": "ask"}]
        federation = in_memory(
            DataSettings(source="memory", bad_rows="drop"), 0, "responses", {"a": (good + bad, good)}
        )
        assert len(federation.clients["a"].train) == 4
        assert any("3 of 11 rows were dropped" in note for note in federation.warnings)

    def test_sources_with_rows_of_their_own_do_not_read_it(self) -> None:
        with pytest.raises(DataError, match=r"data\.bad_rows: source 'quickstart' has rows of its own"):
            load_federation(DataSettings(source="quickstart", bad_rows="drop"), 0)
