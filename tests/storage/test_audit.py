"""The audit trail: every changed byte is found, it goes on where it ended, and the page says who saw what."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlease.errors import RunFolderError
from fedlease.reporting.audit_page import audit_page
from fedlease.storage.audit import AUDIT, FIRST, Trail, read_trail


def written(folder: Path) -> Path:
    trail = Trail.of(folder)
    trail.add("joined", client="a", rows_sha256="0", train_rows=4)
    trail.tensors("received", {"m/B/0": torch.zeros(2, 3)}, client="a", method="fedlease")
    trail.flush()
    trail = Trail.of(folder)
    trail.tensors("received", {"m/B/0": torch.ones(2, 3)}, client="a", method="fedlease")
    trail.flush()
    return folder / AUDIT


def test_lines_are_chained_over_restarts_and_shapes_stand_once(tmp_path: Path) -> None:
    lines = read_trail(written(tmp_path))
    assert [line["kind"] for line in lines] == ["joined", "layout", "received", "received"]
    assert [line["before"] for line in lines] == [FIRST, *(line["sha256"] for line in lines[:-1])]
    assert lines[1]["shapes"] == {"m/B/0": [2, 3]} and lines[2]["bytes"] == lines[3]["bytes"] == 24
    assert lines[2]["layout"] == lines[3]["layout"] == lines[1]["layout"]
    assert lines[2]["content_sha256"] != lines[3]["content_sha256"]


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole, chosen = path.read_bytes(), random.Random(0)
    for place in [*chosen.sample(range(len(whole)), 300), 0, len(whole) - 1]:
        for bit in (1, 32):
            changed = bytearray(whole)
            changed[place] ^= bit
            path.write_bytes(changed)
            with pytest.raises(RunFolderError, match=r"line [1-5]: is not as it was written"):
                read_trail(path)


@pytest.mark.parametrize("order", [[0, 1, 3], [1, 2, 3], [0, 2, 1, 3], [0, 1, 1, 2, 3]])
def test_no_line_is_taken_out_doubled_or_moved(order: list[int], tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[place] for place in order))
    with pytest.raises(RunFolderError, match="is not as it was written"):
        read_trail(path)


def test_a_run_records_what_travelled_and_its_page_says_so(finished: Any) -> None:
    run = finished()
    lines = read_trail(run.out / AUDIT)
    ours = [line for line in lines if line.get("method") == "fedlease"]
    received = [line for line in ours if line["kind"] == "received"]
    # Every client in the warm-up and in two rounds; bytes are those of the summary, whose heads stay at home.
    assert (
        len(received) == 3 * len(run.summary["per_client"])
        and sum(line["bytes"] for line in received) == run.summary["bytes_up"]
    )
    assert {line["client"] for line in lines if line["kind"] == "joined"} == {*run.summary["per_client"]}
    assert [line["kind"] for line in lines].count("finished") == len(run.summaries)
    page = audit_page(run.out, lines)
    assert f"Last hash: `{lines[-1]['sha256']}`" in page and "Nothing was refused." in page
    assert "LoRA A, LoRA B, router" in page and "Differential privacy: none" in page
    assert "Secure sums: none, the server reads every update." in page


def test_the_page_says_what_is_promised_of_rows_and_what_each_client_has_spent(finished: Any) -> None:
    pytest.importorskip("opacus", reason="opacus is not installed: pip install 'fedlease[privacy]'")
    run = finished(**{"privacy.epsilon": 8.0, "baselines": ["fedit"], "warmup.epochs": 2})
    page = audit_page(run.out, read_trail(run.out / AUDIT))
    assert "Differential privacy: epsilon 8 at delta 1e-05 for every train row of a client, over all that" in page
    spent = {name: summary["epsilon"] for name, summary in run.summaries.items()}
    for client in run.summary["per_client"]:
        both = ", ".join(f"{spent[name][client]:.2f} ({name})" for name in ("fedit", "fedlease"))
        assert f"| {both} |" in page and f"| {client} |" in page


def test_the_page_says_what_the_server_read_in_sums_alone() -> None:
    lines = [
        {"line": 1, "kind": kind, "client": client, "at": "now", "layout": "x", "bytes": 8, "sha256": "0", "clients": 4}
        for client in "ab"
        for kind in ("received", "summed", "summed")
    ]
    page = audit_page(Path("r"), [{"kind": "layout", "layout": "x", "shapes": {"q/B/0": [1]}, "at": "now"}, *lines])
    assert "4 updates came masked, and the server read only sums, each of 4 clients or more; 2 updates, of" in page
    assert "| a |  | 0, 0 B | 1, 8 B | 2 | LoRA B | not bounded |" in page
    sketched = [{**line, "sketch": True} if line["kind"] == "received" else line for line in lines]
    page = audit_page(Path("r"), [{"kind": "layout", "layout": "x", "shapes": {"q/B/0": [1]}, "at": "now"}, *sketched])
    assert "each of 4 clients or more; 2 sketches, of warm-ups, it read one by one." in page
    assert "| a |  | 0, 0 B | 1, 8 B | 2 | LoRA B, sketch | not bounded |" in page


@pytest.mark.parametrize(
    ("what", "recorded", "row"),
    [
        ("update", {"layout": "x", "bytes": 8}, "8 B | LoRA B, head |"),
        ("sketch of a warm-up", {"layout": "x", "bytes": 8}, "8 B | head, sketch of LoRA B |"),
        ("masked update", {"bytes": 8}, "8 B | tensors, which can be read in the sum alone |"),
        ("keys and shares of a sum", {}, " | public keys, sealed shares of secrets |"),
        ("unmasking of a sum", {}, " | shares that take the masks off the sum |"),
        ("update", {"layout": "none", "bytes": 0}, " | a score |"),
        ("score", {}, " | a score |"),
        ("scores", {"samples": 2}, " | one score per test row; 2 test rows in clear text |"),
        ("card", {}, " | row counts, labels |"),
    ],
)
def test_the_page_of_a_node_says_what_each_thing_that_left_held(what: str, recorded: dict[str, Any], row: str) -> None:
    lines = [
        {"kind": "layout", "layout": "x", "shapes": {"q/B/0": [1], "head/weight": [1]}, "at": "now"},
        {"kind": "layout", "layout": "none", "shapes": {}, "at": "now"},
        {"kind": "left", "client": "a", "what": what, "at": "now", "sha256": "0", **recorded},
    ]
    assert f"| a | {what} | 1 | {row}" in audit_page(Path("r"), lines)


def test_none_is_written_where_it_is_off(finished: Any) -> None:
    assert not (finished(audit=False, rounds=0).out / AUDIT).exists()


def test_the_command_says_what_is_wrong_and_knows_a_noted_hash(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from fedlease.cli.main import app

    path = written(tmp_path)
    head = read_trail(path)[-1]["sha256"]
    good = CliRunner().invoke(app, ["audit", str(tmp_path), "--head", head])
    assert good.exit_code == 0 and "4 lines, unbroken" in good.output
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert CliRunner().invoke(app, ["audit", str(tmp_path)]).exit_code == 0, "a whole chain, without its end"
    cut = CliRunner().invoke(app, ["audit", str(tmp_path), "--head", head])
    assert isinstance(cut.exception, RunFolderError) and "lines were cut off" in str(cut.exception)
    with pytest.raises(RunFolderError, match="has no audit trail"):
        read_trail(tmp_path / "none" / AUDIT)
