"""The benchmarks: every script runs, the loop computes what the routed layer computes, the README keeps its text."""

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from small import SMALL

FOLDER = Path(__file__).parents[1] / "benchmarks"
WHOLE_RUN = pytest.param("quickstart", marks=pytest.mark.slow)


class Scripts:
    """The scripts import each other by bare names, as they do when one of them is run."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripts]:
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    own = {file.stem for file in FOLDER.glob("*.py")}
    assert not own & sys.modules.keys()
    yield Scripts()
    for name in own:
        sys.modules.pop(name, None)
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "name",
    ["layer", "step", "round", "allocation", "grouping_many", "payload", "private_step", "secure_sums", WHOLE_RUN],
)
def test_every_script_runs_and_writes_its_tables(
    name: str,
    scripts: Scripts,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = getattr(scripts, name)
    # Threads that wait for each other take the time of the other workers.
    monkeypatch.setattr(script, "use_all_cores", lambda: 1, raising=False)
    if name == "round":
        monkeypatch.setattr(script, "CLIENTS", script.CLIENTS[:8])  # two for every expert
    if name in ("allocation", "grouping_many", "quickstart"):
        child = script if name == "grouping_many" else getattr(scripts, f"{name}_child")
        monkeypatch.setattr(child, "use_all_cores", lambda: 1, raising=False)
        for part in getattr(child, "PARTS", ()):
            monkeypatch.setattr(child.module, part, getattr(child.module, part))  # what it wraps is unwrapped again
        if name == "quickstart":
            few = {key.replace(".", "__"): value for key, value in SMALL.items() if key != "baselines"}
            monkeypatch.setattr(child, "run", partial(child.run, **few))
        monkeypatch.setattr(subprocess, "run", in_this_process(child))
    scripts.output.entry(name, script.measure, ["--smoke", "--json", str(tmp_path / "result.json")])
    check_smoke(tmp_path / "result.json", capsys.readouterr().out)


def in_this_process(child: ModuleType) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Takes the place of ``subprocess.run``: a process of its own would load torch and PEFT anew."""

    others = subprocess.run

    def run(words: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        if words[0] != sys.executable:
            return others(words, **how)
        assert Path(words[1]) == FOLDER / f"{child.__name__}.py" and Path(words[1]).is_file()
        printed = io.StringIO()
        with redirect_stdout(printed):
            child.main(*(int(word) if word.isdecimal() else word for word in words[2:]))
        return subprocess.CompletedProcess(words, 0, printed.getvalue())

    return run


@pytest.mark.deployment
@pytest.mark.parametrize("part", ["simulation", "scale"])
def test_flower_runs_and_writes_its_tables(
    part: str, scripts: Scripts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    pytest.importorskip("ray", reason="ray is not installed: pip install 'fedlease[simulation]'")
    scripts.engines.main([part, "--smoke", "--json", str(tmp_path / "result.json")])
    check_smoke(tmp_path / "result.json", capsys.readouterr().out)


@pytest.mark.deployment
def test_the_peer_and_our_rounds_are_one_table(
    scripts: Scripts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("flwr", "ray", "accelerate"):
        pytest.importorskip(package)
    scripts.output.entry("peers", scripts.peers.measure, ["--smoke", "--json", str(tmp_path / "result.json")])
    check_smoke(tmp_path / "result.json", capsys.readouterr().out)


def test_ratios_to_the_peer_are_of_neighbours(scripts: Scripts) -> None:
    """20 / 10 and 30 / 10: the median of 2 and 3, and not the ratio of the medians of other passes."""
    rounds = dict(zip(scripts.peers.OURS, ((10.0, 10.0), (20.0, 20.0), (5.0, 30.0), (4.0, 6.0)), strict=True))
    rounds = {scripts.peers.PEER: (20.0, 30.0), **rounds}
    parts = dict.fromkeys(scripts.peers.PARTS, 1.0)
    found = {
        way: [{"round": seconds, **parts, "processor": 2 * seconds} for seconds in passes]
        for way, passes in rounds.items()
    }
    report = scripts.peers.report(found, smoke=False)
    # Of 20 / 5 = 4 and 30 / 30 = 1 the median is 2.5, too, and in bfloat16 it is to be 3.
    assert [(target.figure, target.met) for target in report.targets] == [("2.5", True), ("2.5", False)]
    way, _, *_, ratio, processor, of_processor = report.tables[0].rows[1]
    assert way == "float32" and ratio.startswith("2.5") and processor.startswith("20.00")
    assert of_processor.startswith("2.5"), "20 / 10 and 30 / 10 of the processor's seconds, too"


def test_the_accelerators_runs_are_added_to_those_of_earlier_calls(
    scripts: Scripts, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.accelerator, "COUNTS", (4,))
    for key in ("data.clients_per_task", "data.train_rows", "data.test_rows", "warmup.epochs"):
        monkeypatch.setitem(scripts.accelerator.SMOKE, key, SMALL[key])
    for calls in (1, 2):
        assert scripts.accelerator.main([str(tmp_path / "runs.jsonl"), "--smoke"]) == 0
        lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
        assert [(line["dtype"], line["clients"]) for line in lines] == [("float32", 4), ("bfloat16", 4)] * calls
    assert [row[1:4] for row in scripts.accelerator.table(lines).rows] == [
        ["bfloat16", "4", "2"],
        ["float32", "4", "2"],
    ]
    assert "float32" in capsys.readouterr().out


def test_every_method_is_run_at_the_better_rate_and_what_failed_is_named_and_run_again(
    scripts: Scripts, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = scripts.method_table
    broken = {"fedsvd"}

    def measured(run: Any, settings: Any, shared: Path) -> dict[str, Any]:
        if run.method in broken:
            return {**vars(run), "failed": "no room"}
        mean = {"local": 0.8, "fedit": 0.7, "fedsvd": 0.6}[run.method] - run.rate + 0.01 * run.seed
        costs = {"bytes_up": 2_000_000, "bytes_down": 0, "seconds": 3.0, "wall": 4.0, "per_task": {"mood": mean}}
        return {**vars(run), "mean": mean, **costs}

    monkeypatch.setattr(methods, "measured", measured)
    monkeypatch.setattr(methods, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))
    file = tmp_path / "runs.jsonl"
    command = [str(file), "--methods", "fedit,local,fedsvd", "--rates", "0.3,0.1"]
    assert methods.main([*command, "--budget-seconds", "0"]) == 0 and not file.exists()
    assert methods.main(command) == 1
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(x["method"], x["seed"], x["rate"]) for x in lines if x["scored"] == "test"} == {
        ("fedit", 0, 0.1), ("fedit", 1, 0.1), ("local", 0, 0.1), ("local", 1, 0.1)
    }  # fmt: skip
    # .8 - .1 and .01 more on seed 1: a mean of 70.5 and a deviation of 1 / sqrt(2).
    printed = capsys.readouterr().out
    assert "| `local` | 70.5 | 70.5 ± 0.7 | 70.0, 71.0 | 0.1 | 2.0 | 0.0 | 3 |" in printed
    assert "- `fedsvd` failed: no room" in printed
    broken.clear()
    assert methods.main(command) == 0
    assert len(file.read_text().splitlines()) == len(lines) + 4, "only what failed was run again"
    assert "failed" not in capsys.readouterr().out


def test_a_run_of_a_method_is_a_line_of_scores_and_costs_and_one_that_fails_says_why(
    scripts: Scripts, tmp_path: Path
) -> None:
    methods = scripts.method_table
    settings = {**methods.FEDERATIONS["quickstart"], **methods.COMMON, **methods.SMOKE, "data.clients_per_task": 1}
    line = methods.measured(methods.Run("quickstart", "local", 0, 1e-3, "test"), settings, tmp_path)
    assert 0 <= line["mean"] <= 1 and (line["bytes_up"], line["passes"]) == (0, 2) and len(line["per_task"]) == 4
    line = methods.measured(methods.Run("quickstart", "local", 0, -1, "test"), settings, tmp_path)
    assert "train.lr" in line["failed"] and "mean" not in line


def test_a_later_call_measures_the_steps_that_are_missing(
    scripts: Scripts, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, file = scripts.accelerator_step, tmp_path / "steps.jsonl"
    monkeypatch.setattr(script, "SMALL", {"tiny decoder": script.SMALL["tiny decoder"]})
    monkeypatch.setattr(script, "DTYPES", ("bfloat16",))
    for variants in (("stacked 4",), ("swapped", "stacked 4", "floor")):
        monkeypatch.setattr(script, "VARIANTS", variants)
        assert script.main([str(file), "--smoke"]) == 0
        file.write_text(file.read_text() + '{"cut off')
    assert [line["variant"] for line in script.read(file)] == ["stacked 4", "swapped", "floor"]
    assert "stacked 4" in capsys.readouterr().out


def test_ratios_of_steps_are_of_medians_and_the_base_counts_once(scripts: Scripts) -> None:
    cell = {"device": "A", "base": "B", "dtype": "float32", "tokens": 32, "base_mb": 100}
    ms = {"swapped": [6.0, 9.0, 7.0], "stacked 1": [8.0], "stacked 16": [2.0], "peft": [14.0]}
    extra = {"swapped": 10, "stacked 1": 10, "stacked 16": 160, "peft": 10}
    found = scripts.accelerator_step.report(
        [{**cell, "variant": name, "ms": one, "extra_mb": extra[name]} for name in ms for one in ms[name]]
    )
    assert [row[3:8] for row in found.tables[0].rows if row[3] == "stacked 16"] == [
        ["stacked 16", "1", "2.00 (2.00-2.00)", "3.5", "7.0"]  # 7 / 2 and 14 / 2
    ]
    # (100 + 160) / (100 + 16 x 10) = 1
    assert [(target.figure, target.met) for target in found.targets] == [("3.5", True), ("7.0", True), ("1.00", True)]


def check_smoke(path: Path, printed: str) -> None:
    result = json.loads(path.read_text())
    assert result["smoke"] is True
    assert result["tables"]
    for table in result["tables"]:
        assert table["rows"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    # Tiny sizes decide no target.
    assert {target["met"] for target in result["targets"]} <= {None}
    assert result["question"] in printed


def test_every_question_is_run_by_run_all(scripts: Scripts) -> None:
    questions = {file.stem for file in FOLDER.glob("*.py") if 'entry("' in file.read_text()}
    assert {*scripts.run_all.NAMES, *scripts.run_all.LONGER} == questions


@pytest.mark.parametrize("num_experts", [2, 4])
def test_the_loop_over_slots_and_the_routed_layer_give_the_same_output_and_gradients(
    num_experts: int, scripts: Scripts
) -> None:
    variants = scripts.layer.build(width=12, num_experts=num_experts, r=3, dropout=0.0)
    gradient = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3))
    found: dict[str, list[torch.Tensor]] = {}
    for name in ("routed", "loop"):
        x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(2)).requires_grad_()
        learning = [p for p in variants[name].parameters() if p.requires_grad]
        assert len(learning) == 3  # own A, own B, router
        output = variants[name](x)
        found[name] = [output, *torch.autograd.grad(output, [x, *learning], gradient)]
        # The router's gradient vanishes where nobody else is chosen; here it must say something.
        assert all(bool(tensor.abs().max() > 0) for tensor in found[name])
    for routed, loop in zip(found["routed"], found["loop"], strict=True):
        torch.testing.assert_close(routed, loop)


def test_peak_memory_counts_what_is_alive_at_once(scripts: Scripts) -> None:
    def step() -> None:
        first = torch.ones(1000)  # 4,000 bytes
        second = first + 1  # 8,000 alive
        del first
        third = second + 1  # 8,000 alive again
        del second, third

    # The numbers 1 are tensors of a few bytes as well.
    assert 8000 <= scripts.measure.peak_tensor_bytes(step) < 8100


def test_variants_take_turns_and_warm_up_passes_are_not_kept(scripts: Scripts) -> None:
    calls: list[str] = []
    times = scripts.measure.interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert [len(seconds) for seconds in times.seconds.values()] == [2, 2]


def test_a_ratio_is_the_median_over_neighbours_and_not_of_medians(scripts: Scripts) -> None:
    times = scripts.measure.Times({"a": [2.0, 20.0, 3.0], "b": [1.0, 10.0, 3.0], "floor": [0.5, 0.5, 0.5]})
    assert times.ratio("a", "b").median == 2.0  # of 2, 2 and 1; the medians 3 and 3 would give 1
    assert times.ratio_above("floor", "a", "b") == 1.0  # (3 - 0.5) / (3 - 0.5)


def result(**changes: Any) -> dict[str, Any]:
    machine = {
        "date": "2000-01-02",
        "processor": "P",
        "cores": 3,
        "memory_gb": 4,
        "system": "S",
        "versions": {"v": "1"},
    }
    tables = [{"title": "T", "columns": ["a", "b"], "rows": [["1", "2|3"]], "notes": ["N."]}]
    targets = [{"text": "at most 1", "figure": "2", "met": False}, {"text": "at least 1", "figure": "2", "met": True}]
    made = {"name": "n", "question": "Q?", "smoke": False, "seconds": 60, "machine": machine}
    return {**made, "tables": tables, "targets": targets, **changes}


def test_only_what_is_between_the_markers_is_rewritten(scripts: Scripts, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{scripts.render.BEGIN}\nold\n{scripts.render.END}\nafter\n")
    for _ in range(2):  # a second time changes nothing
        scripts.render.rewrite(readme, [result()])
        text = readme.read_text()
        assert text.startswith(f"before\n{scripts.render.BEGIN}\n")
        assert text.endswith(f"{scripts.render.END}\nafter\n")
        assert "old" not in text
    for part in (
        "2000-01-02",
        "P, 3 cores, 4 GiB",
        "v 1",
        "| at most 1 | 2 | **missed** |",
        "| at least 1 | 2 | met |",
    ):
        assert part in text
    assert "| 1 | 2\\|3 |" in text
    assert "smoke run" not in text
    assert "smoke run" in scripts.render.markdown([result(smoke=True)])


@pytest.mark.parametrize("text", ["no markers", "{END} {BEGIN}", "{BEGIN} {BEGIN} {END}"])
def test_a_readme_without_the_markers_is_refused(text: str, scripts: Scripts) -> None:
    text = text.replace("{BEGIN}", scripts.render.BEGIN).replace("{END}", scripts.render.END)
    with pytest.raises(ValueError, match=r"must hold <!-- bench:begin --> and then <!-- bench:end -->, once each"):
        scripts.render.replace_block(text, "block")


def test_the_readme_of_this_project_has_the_markers(scripts: Scripts) -> None:
    text = (FOLDER / "README.md").read_text()
    assert scripts.render.replace_block(text, "block").count("\nblock\n") == 1
