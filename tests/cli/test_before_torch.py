"""What the command line and the calls of Python say before they load torch, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reporting.report_folders import bare

NEW = "new"
PROBE = """
import sys
sys.argv = ["fedlease", *{words!r}]
{before}
from fedlease.cli.main import main
try:
    main()
except SystemExit as end:
    print("code", end.code)
print("torch" in sys.modules or "transformers" in sys.modules)
"""

NO_MORE = "import importlib.abc\nclass Stop(importlib.abc.MetaPathFinder):\n    def find_spec(self, name, *_):\n        if name == 'torch':\n            raise SystemExit('torch')\nsys.meta_path.insert(0, Stop())"  # noqa: E501
"""Ends the process where torch is imported."""


def process(*words: str, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    probe = PROBE.format(words=words, before=before)
    return subprocess.run([sys.executable, "-c", probe], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("resume none", "none is not a run folder: it holds no config.yaml"),
        ("resume none --engine flower", "none is not a run folder: it holds no config.yaml"),
        ("predict none rows.csv --client a", "none is not a run folder: it holds no config.yaml"),
        ("export none out --all", "none is not a run folder: it holds no config.yaml"),
        ("onboard none --client a --data b", "none is not a run folder: it holds no config.yaml"),
        ("chat none --client a", "none is not a run folder: it holds no config.yaml"),
        ("serve none", "none is not a run folder: it holds no config.yaml"),
        ("run --from none --set rounds=+1", "none is not a run folder: it holds no config.yaml"),
        ("run --set max_experts=1", "max_experts: must be at least 2, received 1"),
        ("run --out old", "out: old already holds a run; go on with: fedlease resume old, or choose another --out"),
        ("run --out new --set data.path=gone", "data.path: '{here}/gone' does not exist"),
        ("check --set data.path=gone", "data.path: '{here}/gone' does not exist"),
        ("check --set data.path=rows.csv", "{here}/rows.csv, line 3, column 'text': a text must not be empty, got ''"),
        ("compare --methods local,local", "methods: 'local' is named twice"),
    ],
)
def test_a_fault_that_needs_no_model_is_told_before_torch_is_loaded(words: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.yaml").touch()
    (tmp_path / "rows.csv").write_text("text,label,client,split\na,x,c,train\n,y,c,train\n")
    done = process(*words.split(), folder=tmp_path)
    assert done.stderr == f"fedlease: {fault.format(here=tmp_path)}\n"
    assert done.stdout.removeprefix(f"Run folder {NEW}: loading libraries, rows and model\n") == "code 2\nFalse\n"


def test_the_probe_can_fail(tmp_path: Path) -> None:
    assert process("methods", folder=tmp_path, before="import torch").stdout.endswith("True\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run --preset smoke --out new", "Run folder new: loading libraries, rows and model\n"),
        ("run --from before --set rounds=+1 --out new", "Run folder new: loading libraries, rows and model\n"),
        ("compare --preset smoke --out new", "Comparison in new: loading libraries\n"),
        ("reproduce nlu-main", "nlu-main: loading libraries\n"),
    ],
)
def test_what_begins_is_said_before_torch_is_loaded(words: str, said: str, tmp_path: Path) -> None:
    bare(tmp_path / "before")
    done = process(*words.split(), folder=tmp_path, before=NO_MORE)
    assert said in done.stdout + done.stderr
    assert "code torch" in done.stdout
    quiet = process(*words.split(), "--quiet", folder=tmp_path, before=NO_MORE)
    assert said not in quiet.stdout + quiet.stderr


def test_with_json_what_begins_is_said_on_standard_error(tmp_path: Path) -> None:
    words = ["run", "--preset", "smoke", "--out", "new", "--json"]
    done = process(*words, folder=tmp_path, before=NO_MORE)
    assert "Run folder new" in done.stderr and "Run folder new" not in done.stdout


def test_a_call_of_python_says_at_once_that_it_loads_unless_it_is_quiet(tmp_path: Path) -> None:
    code = f"import sys\n{NO_MORE}\nimport fedlease\nfedlease.run('smoke', out='new', progress={{}})"
    for progress, said in ((True, "Run folder new: loading libraries, rows and model\n"), (False, "")):
        command = [sys.executable, "-c", code.format(progress)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.stderr == f"{said}torch\n"
    assert json.dumps([*map(str, tmp_path.iterdir())]) == "[]"
