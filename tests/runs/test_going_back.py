"""Going back: to an earlier round, to the same bits; and without a client, as if it had never been there."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from small import EIGHT, rounds_of, scores_of, small_run, tensors_of

import fedlease
from fedlease.errors import ConfigError, FedLeaseError, RunFolderError
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.run_folder import read_settings

GONE = "planted-0-1"
TERMS: dict[str, Any] = {**EIGHT, "baselines": ["fedit"], "rounds": 3, "checkpoints": 2}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("back") / "run", **TERMS).out


@pytest.fixture
def run(ran: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ran, tmp_path / "run"))


def test_so_many_steps_are_kept_and_their_files_alone(run: Path) -> None:
    # Steps 0 (before the warm-up), 1, 2 and 3 came before the last, 4; two of them are kept, before rounds 2 and 3.
    checkpoint = Checkpoint(run)
    assert {round_: saved.step for round_, saved in checkpoint.earlier().items()} == {2: 2, 3: 3}
    before = sorted(path.name for path in (run / "state").iterdir())
    checkpoint.clean()
    assert sorted(path.name for path in (run / "state").iterdir()) == before


def test_a_round_made_again_gives_the_same_bits(run: Path) -> None:
    ended, lines = tensors_of(run), len(rounds_of(run))
    summary = fedlease.resume(run, progress=False).summary
    again = fedlease.resume(run, to=2, progress=False).summary
    assert tensors_of(run) == ended and scores_of(again) == scores_of(summary)
    assert len(rounds_of(run)) == lines


def test_from_the_warm_up_on_without_a_client_is_the_run_that_never_had_it(run: Path, tmp_path: Path) -> None:
    found = fedlease.resume(run, without=[GONE], progress=False)
    never = small_run(tmp_path / "never", **TERMS, data__without=[GONE])
    for name in ("fedlease", "fedit"):
        left = {k: v for k, v in scores_of(found.summaries[name]).items() if k != "verdict"}
        assert left == {k: v for k, v in scores_of(never.summaries[name]).items() if k != "verdict"}
    assert tensors_of(run) == tensors_of(never.out)
    assert read_settings(run).data.without == (GONE,)
    assert found.summary["skipped"] == {GONE: "it was left out (data.without)"}
    # It is an ordinary run: it opens, resumes and is reported on.
    assert fedlease.resume(run, progress=False).summary == found.summary
    assert GONE not in found.summary["per_client"]


def test_from_a_later_round_on_without_a_client_the_others_go_on(run: Path) -> None:
    found = fedlease.resume(run, to=3, without=[GONE], progress=False).summary
    assert GONE not in found["per_client"] and GONE not in found["assignment"] and len(found["per_client"]) == 7
    lines = rounds_of(run)
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert GONE in lines[2]["clients"] and GONE not in lines[3]["clients"]
    assert "left out after the start of the run: planted-0-1" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"to": 1}, RunFolderError, "cannot go back to round 1, only to rounds 2, 3 (checkpoints = 2); --to 0"),
        ({"without": ["planted-0"]}, ConfigError, "--without: 'planted-0' is not a client of"),
        ({"without": [f"planted-{t}-{i}" for t in range(4) for i in (0, 1)]}, ConfigError, "names every client"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_touched(
    how: dict[str, Any], error: type[FedLeaseError], said: str, ran: Path
) -> None:
    before = {path: path.read_bytes() for path in sorted(ran.rglob("*")) if path.is_file()}
    with pytest.raises(error) as caught:
        fedlease.resume(ran, progress=False, **how)
    assert said in str(caught.value)
    assert {path: path.read_bytes() for path in sorted(ran.rglob("*")) if path.is_file()} == before
