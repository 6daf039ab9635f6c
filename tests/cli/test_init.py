"""``fedlease init``: files of every form become settings that ``fedlease check`` accepts at once."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli.shell import Shell

from fedlease.config.layers import read_yaml
from fedlease.config.settings import resolve
from fedlease.data.load import load_federation

SITES = ("north", "south", "west")


def notes(site: str, count: int = 20) -> list[dict[str, Any]]:
    return [
        {"Note": f"{site} patient {n} asks for a {'doctor' if n % 2 else 'letter'}", "Urgency": ["low", "high"][n % 2]}
        for n in range(count)
    ]


def answers(site: str) -> list[dict[str, Any]]:
    return [{"Question": f"where is room {n} of {site}", "Answer": f"on floor {n} of it"} for n in range(20)]


def as_csv(path: Path, rows: Sequence[dict[str, Any]], delimiter: str = ",", encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def one_file(at: Path) -> Path:
    as_csv(at / "notes.csv", [{"Hospital": site, **row} for site in SITES for row in notes(site)])
    return at / "notes.csv"


def semicolons(at: Path) -> Path:
    rows = [{"Klinik site": site, **row, "Note": f"{row['Note']} für später"} for site in SITES for row in notes(site)]
    as_csv(at / "notes.csv", rows, ";", "cp1252")
    return at / "notes.csv"


def folders(at: Path) -> Path:
    for site in SITES:
        as_csv(at / "my rows" / site / "train.csv", notes(site))
        as_csv(at / "my rows" / site / "test.csv", notes(f"new {site}", 4))
    return at / "my rows"


def array(at: Path) -> Path:
    (at / "rows.json").write_text(json.dumps([{"branch": site, **row} for site in SITES for row in answers(site)]))
    return at / "rows.json"


FORMS: dict[str, Callable[[Path], Path]] = {
    "one file": one_file,
    "semicolons and cp1252": semicolons,
    "folders": folders,
    "JSON array": array,
}


@pytest.mark.parametrize("form", FORMS)
def test_files_become_settings_that_read_them(form: str, shell: Shell, tmp_path: Path) -> None:
    path = FORMS[form](tmp_path)
    done = shell("init", path, "--set", "model=tiny-random")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "Next: fedlease check federation.yaml"
    settings = resolve(Path("federation.yaml"))
    federation = load_federation(settings.data, settings.seed, settings.task)
    assert list(federation.clients) == [*SITES]
    assert settings.task == ("generation" if form == "JSON array" else "classification")
    assert settings.baselines == ("local",)
    for client in federation:
        assert f"│ {client.id}" in done.out and len(client.train) in (16, 20) and client.test
    if settings.task == "classification":
        assert all(client.labels == ("high", "low") for client in federation)


def test_check_accepts_what_init_wrote(shell: Shell, tmp_path: Path) -> None:
    one_file(tmp_path)
    assert shell("init", "notes.csv", "--out", "conf/mine.yaml", "--set", "model=tiny-random").code == 0
    done = shell("check", "conf/mine.yaml")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "Next: fedlease run conf/mine.yaml"


def test_every_line_is_explained_and_what_was_stated_is_kept(shell: Shell, tmp_path: Path) -> None:
    one_file(tmp_path)
    changes = {"rounds": "7", "data.columns.text": "Note", "data.test_fraction": "0.5", "seed": "3"}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    assert shell("init", "notes.csv", *words).code == 0
    content = read_yaml(Path("federation.yaml"))
    assert (content["rounds"], content["seed"], content["data"]["test_fraction"]) == (7, 3, 0.5)
    assert content["data"]["columns"] == {"client": "Hospital", "label": "Urgency", "text": "Note"}
    text = Path("federation.yaml").read_text()
    lines = text.splitlines()
    assert lines[0] == "# Written by `fedlease init notes.csv`: 3 clients, 2 labels, 30 train and 30 test rows."
    for key in ("task", "model", "baselines", "data", "client", "label", "path", "max_tokens"):
        place = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
        assert key == "data" or lines[place - 1].strip().startswith("# "), key
    # Settings at their defaults are there to be uncommented, those that were stated are not there twice.
    assert "# train.lr: 0.001" in text and "# rounds:" not in text
    more = [line.split("    # ")[0].removeprefix("# ") for line in lines if "    # " in line and ": " in line]
    Path("more.yaml").write_text(text + "\n".join(more))
    assert resolve(Path("more.yaml")) == resolve(Path("federation.yaml"))


def test_rows_without_clients_are_dealt_where_that_is_stated(shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip("flwr_datasets")
    as_csv(tmp_path / "notes.csv", notes("north", 60))
    done = shell("init", "notes.csv")
    assert done.code == 2 and "add --set data.columns.client=COLUMN, or --set data.partition=dirichlet" in done.err
    assert shell("init", "notes.csv", "--set", "data.partition=dirichlet").code == 0
    assert resolve(Path("federation.yaml")).data.partition == "dirichlet"


def test_a_file_is_replaced_only_by_force(shell: Shell, tmp_path: Path) -> None:
    one_file(tmp_path)
    Path("federation.yaml").write_text("mine")
    done = shell("init", "notes.csv")
    assert (done.code, done.err) == (
        2,
        "fedlease: out: federation.yaml exists; choose another --out, or replace it with --force\n",
    )
    assert Path("federation.yaml").read_text() == "mine"
    assert shell("init", "notes.csv", "--force").code == 0
    assert resolve(Path("federation.yaml")).data.path == Path("notes.csv")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["nothing"], "init: 'nothing' does not exist"),
        (["."], "init: '.' has no files with rows (.jsonl, "),
        (["rows.txt"], "rows.txt: file type '.txt' is not one of .jsonl, "),
        (["empty.csv"], "init: no rows in 'empty.csv'"),
        (["broken.jsonl"], "broken.jsonl, line 1: malformed JSON"),
        (["ok.csv", "--set", "data.colums.text=x"], "data.colums: no such setting; did you mean 'data.columns"),
        (
            ["ok.csv", "--set", "data.path=x"],
            "data.path: init already has a path as its argument; leave one of them out",
        ),
        (
            ["ok.csv", "--set", "task=poetry"],
            "task: must be one of classification, multilabel, regression, generation, received 'p",
        ),
        (["ok.csv", "--set", "nonsense"], "--set: must be key=value, received 'nonsense'"),
        (["ok.csv", "--out", "."], "out: . is a folder; name a file such as federation.yaml"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    words: list[str], fault: str, shell: Shell, tmp_path: Path
) -> None:
    if words[0] != ".":
        (tmp_path / "rows.txt").write_text("text")
        (tmp_path / "empty.csv").write_text("text,label\n")
        (tmp_path / "broken.jsonl").write_text("{'text': 1}\n")
        as_csv(tmp_path / "ok.csv", [{"site": site, **row} for site in SITES for row in notes(site)])
    done = shell("init", *words)
    assert done.code == 2 and done.err.startswith(f"fedlease: {fault}"), done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "federation.yaml").exists()


def test_names_of_columns_and_files_steer_neither_the_terminal_nor_the_file(shell: Shell, tmp_path: Path) -> None:
    rows = [
        {"site: [b]": site, "Note # 1\x1b[31m": row["Note"], "ja: nein": row["Urgency"]}
        for site in SITES
        for row in notes(site)
    ]
    as_csv(tmp_path / "a [red] #b.csv", rows)
    done = shell("init", "a [red] #b.csv")
    assert (done.code, done.err) == (0, "") and "\x1b" not in done.out and "site: [b]" in done.out
    settings = resolve(Path("federation.yaml"))
    assert settings.data.path == Path("a [red] #b.csv")
    columns = settings.data.columns
    assert (columns.client, columns.text, columns.label) == ("site: [b]", "Note # 1\x1b[31m", "ja: nein")


def test_uneven_labels_suggest_macro_f1_and_say_how_uneven_they_are(shell: Shell, tmp_path: Path) -> None:
    rows = [{**row, "Urgency": "high" if n % 8 == 7 else "low"} for n, row in enumerate(notes("north", 40))]
    for site in SITES:
        as_csv(tmp_path / "sites" / f"{site}.csv", [{**row, "Note": f"{site}: {row['Note']}"} for row in rows])
    done = shell("init", "sites")
    assert done.code == 0 and "times as many train rows" in " ".join(done.out.replace("│", " ").split())
    written = read_yaml(tmp_path / "federation.yaml")
    # 35 low and 5 high rows, of which one high and seven low ones are held out.
    text = " ".join((tmp_path / "federation.yaml").read_text().replace("#", "").split())
    assert written["metric"] == "macro_f1" and "'low' has 7.0 times as many" in text
    assert shell("init", "sites", "--force", "--set", "metric=accuracy").code == 0
    assert read_yaml(tmp_path / "federation.yaml")["metric"] == "accuracy"
