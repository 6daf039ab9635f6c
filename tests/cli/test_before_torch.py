"""What the command line and the calls of Python say before they load torch, which takes seconds."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from reporting.report_folders import bare

NEW = "new"
SERVER = """
import json, os, sys, traceback
import fedlease.cli.main, fedlease.config.settings, fedlease.data.load, fedlease.storage.run_folder
assert not {"torch", "transformers"} & {*sys.modules}
for line in sys.stdin:
    code, folder, out, err = json.loads(line)
    if not (child := os.fork()):
        os.chdir(folder)
        for stream, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
        try:
            exec(code)
        except SystemExit as end:
            print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    os.waitpid(child, 0)
    print(flush=True)
"""
"""Runs programs, one a line, each in a copy of a process that has imported the command line and no more."""

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


class Said(NamedTuple):
    stdout: str
    stderr: str


Run = Callable[[str], Said]
Process = Callable[..., Said]


@pytest.fixture(scope="module")
def server() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.fixture
def fresh(server: "subprocess.Popen[str]", tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program in the test's folder."""
    streams = tmp_path_factory.mktemp("streams")

    def run(code: str) -> Said:
        out, err = streams / "out", streams / "err"
        for path in (out, err):
            path.unlink(missing_ok=True)
        assert server.stdin is not None and server.stdout is not None
        print(json.dumps([code, str(tmp_path), str(out), str(err)]), file=server.stdin, flush=True)
        assert server.stdout.readline() == "\n"
        return Said(out.read_text(), err.read_text())

    return run


@pytest.fixture
def process(fresh: Run) -> Process:
    """Runs the command line with these words."""
    return lambda *words, before="": fresh(PROBE.format(words=words, before=before))


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
        (
            "check --set data.path=rows.csv",
            "{here}/rows.csv, line 3, column 'text': a text must not be empty, got ''\n"
            "fedlease: data.bad_rows=drop goes on without rows that cannot be used, and counts them.",
        ),
        ("compare --methods local,local", "methods: 'local' is named twice"),
    ],
)
def test_a_fault_that_needs_no_model_is_told_before_torch_is_loaded(
    words: str, fault: str, process: Process, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.yaml").touch()
    (tmp_path / "rows.csv").write_text("text,label,client,split\na,x,c,train\n,y,c,train\n")
    done = process(*words.split())
    assert done.stderr == f"fedlease: {fault.format(here=tmp_path)}\n"
    assert done.stdout.removeprefix(f"Run folder {NEW}: loading libraries, rows and model\n") == "code 2\nFalse\n"


def test_the_probe_can_fail(process: Process) -> None:
    assert process("methods", before="import torch").stdout.endswith("True\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run --preset smoke --out new", "Run folder new: loading libraries, rows and model\n"),
        ("run --from before --set rounds=+1 --out new", "Run folder new: loading libraries, rows and model\n"),
        ("compare --preset smoke --out new", "Comparison in new: loading libraries\n"),
        ("reproduce nlu-main", "nlu-main: loading libraries\n"),
    ],
)
def test_what_begins_is_said_before_torch_is_loaded(words: str, said: str, process: Process, tmp_path: Path) -> None:
    bare(tmp_path / "before")
    done = process(*words.split(), before=NO_MORE)
    assert said in done.stdout + done.stderr
    assert "code torch" in done.stdout
    quiet = process(*words.split(), "--quiet", before=NO_MORE)
    assert said not in quiet.stdout + quiet.stderr


def test_with_json_what_begins_is_said_on_standard_error(process: Process) -> None:
    words = ["run", "--preset", "smoke", "--out", "new", "--json"]
    done = process(*words, before=NO_MORE)
    assert "Run folder new" in done.stderr and "Run folder new" not in done.stdout


def test_a_call_of_python_says_at_once_that_it_loads_unless_it_is_quiet(fresh: Run, tmp_path: Path) -> None:
    code = f"import sys\n{NO_MORE}\nimport fedlease\nfedlease.run('smoke', out='new', progress={{}})"
    for progress, said in ((True, "Run folder new: loading libraries, rows and model\n"), (False, "")):
        assert fresh(code.format(progress)).stderr == f"{said}torch\n"
    assert not list(tmp_path.iterdir())
