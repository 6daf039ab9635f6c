"""The command line: exit codes, one line per fault on standard error, what goes to which stream."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli.shell import Done, Shell
from processes import begin
from small import SMALL

from fedlease import __version__
from fedlease.config.settings import preset_names, preset_text
from fedlease.methods.registry import CENTRALISED, METHODS, UNEQUAL_RANKS

FEW = {**SMALL, "baselines": ["fedit", "local"]}
QUICK = [word for key, value in FEW.items() for word in ("--set", f"{key}={value}")]
ALONE = ["--set", "baselines=[]"]
TWO = ["--set", "data.clients_per_task=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """One whole run, as a process of its own."""
    folder = tmp_path_factory.mktemp("cli")
    done = begin("run", "--preset", "smoke", *QUICK, "--out", folder / "run", "--json", streams=folder)
    return folder / "run", Done(done.ended(240), done.out.read_text(), done.err.read_text())


@pytest.mark.slow
def test_json_is_one_object_on_standard_output_and_progress_is_on_the_other(
    finished: tuple[Path, Done],
) -> None:
    out, done = finished
    assert done.code == 0, done.err
    (line,) = done.out.splitlines()
    content = json.loads(line)
    assert content["out"] == str(out)
    assert list(content["summaries"]) == ["fedlease", "fedit", "local"]
    assert content["summaries"]["fedlease"] == json.loads((out / "summary.json").read_text())
    assert "fedlease warmup: train loss" in done.err
    assert "Traceback" not in done.err


def test_a_folder_that_holds_a_run_is_left_alone(finished: tuple[Path, Done], shell: Shell) -> None:
    out, _ = finished
    before = (out / "config.yaml").read_bytes(), (out / "summary.json").read_bytes()
    done = shell("run", "--preset", "smoke", "--set", "seed=9", "--out", out)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"fedlease: out: {out} already holds a run; go on with: fedlease resume {out}, or choose another --out\n"
    )
    assert ((out / "config.yaml").read_bytes(), (out / "summary.json").read_bytes()) == before


def test_resuming_a_finished_run_shows_the_same_results_again(finished: tuple[Path, Done], shell: Shell) -> None:
    out, first = finished
    done = shell("resume", out, "--json")
    assert done.code == 0
    assert json.loads(done.out) == json.loads(first.out)
    ended = "The run had ended, and nothing was left to do. Its result:"
    shown, quiet = shell("resume", out).out, shell("resume", out, "--quiet").out
    assert "mean over clients" in shown and "mean over clients" in quiet
    assert ended in shown and ended not in quiet and ended not in first.out


def test_quiet_prints_the_table_and_no_progress(shell: Shell, tmp_path: Path) -> None:
    done = shell("run", "--preset", "smoke", *QUICK, *ALONE, "--quiet", "--out", tmp_path / "quiet")
    assert (done.code, done.err) == (0, "")
    assert "mean over clients" in done.out
    assert "train loss" not in done.out
    assert "experts allocated" not in done.out


def test_a_run_that_cannot_go_on_ends_with_code_1_and_one_line(shell: Shell, tmp_path: Path) -> None:
    # alpha / r = 3e38, near the largest float32: once B is not zero any more, no client's loss stays finite.
    hot = ["lora.alpha=3e38", "lora.r=1", "train.clip_norm=null", "train.lr=0.99", "train.local_epochs=4"]
    hot += ["method=fedit", "data.train_rows=12"]
    words = [word for value in hot for word in ("--set", value)]
    done = shell("run", "--preset", "smoke", *QUICK, *ALONE, *words, "--quiet", "--out", tmp_path / "hot")
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("fedlease: the run failed: fedit, round ")
    assert "0 usable updates, min_clients asks for 1" in line


def test_check_tells_rows_bytes_and_time_and_trains_nothing(shell: Shell, tmp_path: Path) -> None:
    done = shell("check", "--preset", "smoke", *QUICK, *TWO, "--json")
    assert done.code == 0
    content = json.loads(done.out)
    # 4 tasks x 2 clients; 4 modules x r 4 x (32 + 32)
    assert len(content["tasks"]) == 8
    assert set(content["train_rows"].values()) == {8}
    assert content["adapter_parameters"] == 1024
    assert [cost["method"] for cost in content["estimates"]] == ["fedlease", "fedit", "local"]
    # fedit: 1 + 2 passes in 3 rounds x 8 clients x 1,024 x 4 bytes
    assert content["estimates"][1]["bytes_up"] == 3 * 8 * 1024 * 4
    assert content["settings"]["data"]["source"] == "synthetic"
    assert list(tmp_path.iterdir()) == []


def test_check_without_json_says_that_all_is_sound(shell: Shell) -> None:
    done = shell("check", "--preset", "smoke", *QUICK, *TWO)
    assert (done.code, done.err) == (0, "")
    assert "planted-0-0" in done.out
    assert done.out.splitlines()[-2:] == [
        "Settings and data are sound.",
        f"Next: {shlex.join(['fedlease', 'run', '--preset', 'smoke', *QUICK, *TWO])}",
    ]


def test_check_says_at_its_end_what_was_found_and_what_comes_next(shell: Shell, tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": n % 2} for n in range(8)]
    for client in "abc":
        (tmp_path / client).mkdir()
        for split, part in (("train", rows[:6]), ("test", rows[4:])):
            text = "".join(json.dumps({**row, "text": f"{client} {row['text']}"}) + "\n" for row in part)
            (tmp_path / client / f"{split}.jsonl").write_text(text)
    done = shell("check", "--preset", "smoke", "--set", f"data.path={tmp_path}")
    assert (done.code, done.err) == (0, "")
    assert "sound" not in done.out
    assert done.out.splitlines()[-1] == f"Next: fedlease run --preset smoke --set data.path={tmp_path}"
    assert "0: 3+2, 1: 3+2" in done.out  # of six train and four test rows every other one has the label 1
    assert done.out.splitlines()[-2] == (
        "Settings and data can be used, but see to this: client 'a': 2 test rows are also train rows; 8 more notes "
        "above."
    )


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ["--preset", "smke"],
            "preset: unknown preset 'smke'; did you mean 'smoke'? valid: " + ", ".join(preset_names()),
        ),
        (
            ["--preset", "smoke", "--set", "method=fedlese"],
            "method: unknown method 'fedlese'; did you mean 'fedlease'?",
        ),
        (["--preset", "smoke", "--set", "lr=1"], "lr: no such setting; did you mean 'train.lr'?"),
        (["--preset", "smoke", "--set", "max_experts=1"], "max_experts: must be at least 2, received 1"),
        (
            ["--preset", "smoke", "--set", "lora.r=999"],
            "lora.r: must be at most 32, the smaller side of bert.encoder.layer.0.attention.self.query, received 999",
        ),
        (
            ["--preset", "smoke", "--set", "lora.target_modules=[nope]"],
            "lora.target_modules: no linear module ends in 'nope'; these exist: ['dense', 'key', 'query', 'value']",
        ),
        (["--preset", "smoke", "--set", "model=./none"], "model: no such folder: ./none"),
        (["none.yaml"], "config: none.yaml cannot be read: No such file or directory"),
    ],
)
def test_wrong_input_is_one_line_on_standard_error_and_code_2(words: list[str], fault: str, shell: Shell) -> None:
    assert shell("run", *words, "--quiet", "--out", "new") == Done(2, "", f"fedlease: {fault}\n")
    assert not Path("new/config.yaml").exists()


def test_check_refuses_what_run_refuses(shell: Shell) -> None:
    done = shell("check", "--preset", "smoke", "--set", "lora.r=999", "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("fedlease: lora.r: must be at most 32")


def test_every_fault_has_a_line_of_its_own(shell: Shell) -> None:
    done = shell("run", "--preset", "smoke", "--set", "lora.r=0", "--set", "rounds=-1", "--set", "nonsense")
    assert done.code == 2
    assert sorted(done.err.splitlines()) == [
        "fedlease: --set: must be key=value, received 'nonsense'",
        "fedlease: lora.r: must be at least 1, received 0",
        "fedlease: rounds: must be at least 0, received -1",
    ]


def test_an_unknown_model_is_one_line_that_names_it(shell: Shell) -> None:
    done = shell("run", "--preset", "smoke", "--set", "model=nobody/nothing", "--quiet", "--out", "new")
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("fedlease: model: no ")
    assert "'nobody/nothing'" in line


def test_resume_refuses_a_folder_that_is_no_run(shell: Shell, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert shell("resume", folder) == Done(
            2, "", f"fedlease: {folder} is not a run folder: it holds no config.yaml\n"
        )


def test_an_out_that_cannot_be_written_is_one_line(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = shell("run", "--preset", "smoke", *QUICK, "--quiet", "--out", tmp_path / "file")
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert str(tmp_path / "file") in line


def test_wrong_input_leaves_a_process_with_code_2_and_no_traceback() -> None:
    words = ["run", "--preset", "smoke", "--set", "max_experts=1"]
    done = subprocess.run([sys.executable, "-m", "fedlease", *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fedlease: max_experts: must be at least 2, received 1\n"


def test_an_unknown_command_or_option_is_refused_with_code_2(shell: Shell) -> None:
    for words in (["bogus"], ["run", "--bogus"], ["resume"]):
        assert shell(*words).code == 2


def test_the_version_is_the_packages(shell: Shell) -> None:
    assert shell("--version").out == f"fedlease {__version__}\n"


def test_presets_lists_each_in_a_line_and_prints_one_as_it_is(shell: Shell) -> None:
    lines = shell("presets").out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert all(line.endswith(".") and len(line.split()) > 3 for line in lines)
    assert shell("presets", "smoke").out == preset_text("smoke")
    assert shell("presets", "smke").code == 2


def test_methods_lists_each_with_a_sentence_of_its_own(shell: Shell) -> None:
    rows = json.loads(shell("methods", "--json").out)
    assert [row["name"] for row in rows] == [*sorted(METHODS), CENTRALISED]
    assert all(len(row["about"].split()) > 3 for row in rows)
    assert len({row["about"] for row in rows}) == len(rows)
    assert {row["name"] for row in rows if row["ranks_may_differ"]} == UNEQUAL_RANKS.keys()


def test_methods_says_when_each_was_published_what_travels_what_stays_and_whether_ranks_may_differ(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shell("methods").out
    assert all(len(line) <= 80 for line in text.splitlines())
    starts = [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]
    assert starts == [*sorted(METHODS), CENTRALISED]
    assert "2024; partly own; sends A, keeps B; one rank for all" in " ".join(text.split())
    assert "not federated; sends nothing, keeps A and B; ranks may differ" in " ".join(text.split())


HELP = "import fedlease.cli.main\ntry: fedlease.cli.main.app()\nexcept SystemExit as end: assert end.code == 0"
SETTINGS = "import fedlease\nfrom fedlease.config.settings import resolve\nresolve(), fedlease.Settings"


@pytest.mark.parametrize(
    ("code", "words"), [(SETTINGS, []), (HELP, ["--help"]), (HELP, ["methods"]), (HELP, ["presets"])]
)
def test_settings_and_help_load_no_torch(code: str, words: list[str]) -> None:
    heavy = "assert not {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)"
    probe = f"import sys\nsys.argv[1:] = {words!r}\n{code}\n{heavy}"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
