"""``fedlease reproduce``: the list, what it says before it begins, what it prints, and exit code 2 for wrong input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli.shell import Shell

from fedlease.data.sources.glue import TASKS
from fedlease.experiments.catalogue import EXPERIMENTS

TINY = [
    word
    for pair in (
        "model=tiny-random", "data.train_rows=8", "data.test_rows=10", "data.max_tokens=24", "lora.r=2", "rounds=1",
        "threads=1", "device=cpu", "min_silhouette=-1",
    )
    for word in ("--set", pair)
]  # fmt: skip


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    folder = tmp_path / "glue"
    folder.mkdir()
    for task in ("sst2", "qnli", "mrpc", "qqp"):
        spec = TASKS[task]
        rows = [
            {name: f"{task} {name} {n}" for name in (spec.text, spec.text_pair) if name} | {"label": n % 2}
            for n in range(40)
        ]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_without_a_name_every_experiment_has_a_line(shell: Shell) -> None:
    for words in ((), ("--list",), ("rank", "--list")):
        code, out, err = shell("reproduce", *words)
        assert (code, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()] == [*EXPERIMENTS, "attacks"]
        assert all(line.endswith("?") and len(line) < 120 for line in out.splitlines())
    assert list(json.loads(shell("reproduce", "--json")[1])) == [*EXPERIMENTS, "attacks"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ["nlu-mian"],
            "experiment: unknown experiment 'nlu-mian'; did you mean 'nlu-main'? `fedlease reproduce` lists all",
        ),
        (["zzz"], "experiment: unknown experiment 'zzz'; `fedlease reproduce` lists all"),
        (["rank", "--scale", "smal"], "scale: unknown scale 'smal'; did you mean 'small'? valid: paper, small"),
        (["rank", "--seeds", "0,x"], "seeds: must be whole numbers with commas between, received '0,x'"),
        (["rank", "--seeds", "0,0"], "seeds: 0 is given twice"),
        (
            ["signal", "--only", "signal-a"],
            "only: 'signal' has no variant 'signal-a'; did you mean 'signal-A'? valid: fedlease, signal-A, signal-BA",
        ),
        (["rank", "--set", "lora.r=3"], "lora.r: cannot be set here; the experiment 'rank' sets lora.r"),
        (["rank", "--data", "none"], "data.path: '{here}/none' is not a folder of GLUE files such as sst2.jsonl"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(words: list[str], fault: str, shell: Shell, tmp_path: Path) -> None:
    code, out, err = shell("reproduce", *words, "--quiet")
    assert (code, out, err) == (2, "", f"fedlease: {fault.format(here=tmp_path)}\n")
    assert not (tmp_path / "runs").exists()


def test_it_says_what_is_finished_runs_the_rest_and_prints_the_page(shell: Shell, glue: Path, tmp_path: Path) -> None:
    words = ["ablation-experts", "--data", glue, "--only", "fedlease,single", *TINY]
    folder = Path("runs/reproduce/ablation-experts-small")
    code, out, err = shell("reproduce", *words, "--seeds", "0")
    assert code == 0
    assert err.splitlines()[:1] == ["ablation-experts: loading libraries"]
    assert err.splitlines()[1] == f"ablation-experts: 2 cells in {folder}, 0 of them finished"
    assert "fedlease/seed-0: runs" in err and "single/seed-0: mean accuracy" in err
    assert out == (tmp_path / folder / "reproduce.md").read_text()
    assert "| ours / published | mean | fedlease is above it by |" in out and " / 82.00 | " in out

    code, out, err = shell("reproduce", *words, "--seeds", "0,1", "--json")
    assert code == 0
    assert err.splitlines()[1] == f"ablation-experts: 4 cells in {folder}, 2 of them finished"
    assert "seed-0: runs" not in err and "single/seed-1: runs" in err
    assert json.loads(out) == json.loads((tmp_path / folder / "reproduce.json").read_text())

    code, again, err = shell("reproduce", *words, "--seeds", "0,1", "--quiet")
    assert (code, err) == (0, "")
    assert again == (tmp_path / folder / "reproduce.md").read_text()


def test_the_list_loads_no_torch() -> None:
    code = "import fedlease.cli.main\ntry: fedlease.cli.main.app()\nexcept SystemExit as end: assert end.code == 0"
    heavy = "assert not {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)"
    probe = f"import sys\nsys.argv[1:] = ['reproduce']\n{code}\n{heavy}"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
