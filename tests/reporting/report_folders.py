"""Small made-up run folders, written as the JSON that a run leaves."""

import json
from pathlib import Path
from typing import Any

from fedlease.config.settings import resolve
from fedlease.storage.environment import FORMAT

IMAGE = '<img src=x onerror="window.pwned=1">'
SCRIPT = "</script><script>window.pwned=1</script>"
TEMPLATE = "%{x} {{ 7 * 7 }} ${1}"
HOSTILE = (IMAGE, SCRIPT, TEMPLATE, "turn\u202eed\x1b[31m")
QUOTE = "\"'><b onmouseover=window.pwned=1>"
IDS = (IMAGE, "<script>window.pwned=1", TEMPLATE, QUOTE)
"""What a client may be called: neither a path nor a control sequence."""

CLIENTS = {"a0": "news", "a1": "news", "b0": "mood", "b1": "mood"}
# a0 and a1 are 0.2 apart, b0 and b1 0.4, all others 1.
DISTANCES = [[0, 0.2, 1, 1], [0.2, 0, 1, 1], [1, 1, 0, 0.4], [1, 1, 0.4, 0]]
FINALS = {"a0": 0.9, "a1": 0.8, "b0": 0.6, "b1": 0.5}
MODULES = ("m.layer.0.q", "m.layer.1.q")
ROUGE = {"mean_rougeL": 0.375, "mean_exact_match": 0.125, "mean_answer_accuracy": 0.25}


RUN = "0" * 32


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def bare(out: Path, clients: dict[str, str] = CLIENTS, **settings: Any) -> Path:
    """A run that has just begun: settings, environment, clients."""
    out.mkdir(parents=True, exist_ok=True)
    resolved = resolve(preset="smoke", overrides={"rounds": 2, "warmup.epochs": 3, "baselines": [], **settings})
    (out / "config.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
    put(
        out / "environment.json",
        {"format": FORMAT, "run": RUN, "fedlease": "0", "python": "3", "data_warnings": ["two rows were cut"]},
    )
    rows = {
        "labels": ["x", "y"],
        "train_rows": 10,
        "valid_rows": 0,
        "test_rows": 20,
        "pairs": False,
        "fingerprint": "0",
    }
    put(out / "clients.json", {client: {"task": task, "fingerprint": "0", **rows} for client, task in clients.items()})
    return out


def line(step: int, round_: int, scores: dict[str, float], refused: dict[str, str] | None = None) -> dict[str, Any]:
    """Up 100, down 400 bytes per step; 2 seconds of training, half a second of evaluation."""
    return {
        "step": step, "method": "fedlease", "phase": "experts" if round_ else "warmup", "round": round_,
        "refused": refused or {}, "mean_score": None,
        "clients": {client: {"score": score, "loss": 1.0} for client, score in scores.items()},
        "bytes_up": 100, "bytes_down": 400, "head_bytes_up": 7, "head_bytes_down": 0,
        "seconds": {"train": 2.0, "evaluate": 0.5, "aggregate": 0.0, "step": 2.5},
    }  # fmt: skip


def steps(folder: Path, lines: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rounds.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")


def allocation(
    out: Path, distances: list[list[float]], assignment: dict[str, int], silhouettes: Any, **more: Any
) -> None:
    content = {
        "clients": sorted(assignment), "tasks": {}, "num_experts": max(assignment.values()) + 1,
        "assignment": assignment, "silhouettes": silhouettes, "distances": distances, "warnings": [], **more,
    }  # fmt: skip
    put(out / "allocation.json", content)


def summary(
    folder: Path,
    finals: dict[str, float],
    tasks: dict[str, str] = CLIENTS,
    experts: int = 2,
    metric: str = "accuracy",
    **more: Any,
) -> None:
    """Majority 0.5, untrained 0.25, own expert 0.1 below; layer 0 uses 2 experts per token, layer 1 one."""
    others = [0.25 / max(experts - 1, 1)] * (experts - 1)
    usage = {
        client: {
            module: {
                "weights": [0.75, *others],
                "experts_per_token": 2.0 - depth,
            }
            for depth, module in enumerate(MODULES)
        }
        for client in finals
    }
    rows = {
        client: {metric: score, "task": tasks[client], "num_test": 20, "majority": 0.5, "bare_base": 0.25}
        for client, score in finals.items()
    }
    if experts > 1:
        for row in rows.values():
            row["own_expert"] = row[metric] - 0.1
    mean = sum(finals.values()) / len(finals)
    worst = min(finals, key=lambda client: finals[client])
    content = {
        "method": folder.name, "metric": metric, "per_client": rows, "mean": mean, "weighted_mean": mean,
        "worst_client": {"client": worst, metric: finals[worst]}, "majority_mean": 0.5, "bare_base_mean": 0.25,
        "own_expert_mean": mean - 0.1 if experts > 1 else None, "passes": 5, "assignment": {}, "warnings": [],
        "expert_usage": usage if experts > 1 else {}, **more,
    }  # fmt: skip
    put(folder / "summary.json", content)


def finished(out: Path, **settings: Any) -> Path:
    """FedLEASE over three steps, with one refusal, and the baselines fedit (worse) and local (better)."""
    bare(out, baselines=["fedit", "local"], **settings)
    quarter = dict.fromkeys(CLIENTS, 0.25)
    half = dict.fromkeys(CLIENTS, 0.5)
    steps(out, [line(1, 0, quarter), line(2, 1, half), line(3, 2, half, {"b1": "values that are NaN"})])
    assignment = {"a0": 0, "a1": 0, "b0": 1, "b1": 1}
    allocation(out, DISTANCES, assignment, {"2": 0.7, "3": 0.3})
    summary(out, FINALS)
    for name, shift in (("fedit", -0.1), ("local", 0.05)):
        folder = out / "baselines" / name
        steps(folder, [line(1, 1, quarter), line(2, 2, half)])
        summary(folder, {client: score + shift for client, score in FINALS.items()}, experts=1)
    return out


def sample(prompt: str, reference: str, base: str, answer: str) -> dict[str, str]:
    return {"prompt": prompt, "reference": reference, "base": base, "answer": answer}


def generated(out: Path, *, scored: bool = True, samples: bool = True, text: str = "Where is Oslo?") -> Path:
    """FedLEASE and fedit on text generation, without heads; of every client the first test row is kept."""
    bare(out, baselines=["fedit"], task="generation", **{"generation.score_rounds": scored})
    rows = {"labels": [], "train_rows": 10, "valid_rows": 0, "test_rows": 20, "pairs": False, "fingerprint": "0"}
    put(out / "clients.json", {client: {"task": task, "fingerprint": "0", **rows} for client, task in CLIENTS.items()})
    quarter = dict.fromkeys(CLIENTS, 0.25)
    allocation(out, DISTANCES, {"a0": 0, "a1": 0, "b0": 1, "b1": 1}, {"2": 0.7, "3": 0.3})
    for name, folder, shift in (("fedlease", out, 0.0), ("fedit", out / "baselines" / "fedit", -0.1)):
        lines = [{**line(1, 0, quarter), "head_bytes_up": 0}, {**line(2, 1, quarter), "head_bytes_up": 0}]
        for row in (row for entry in lines for row in entry["clients"].values()):
            if not scored:
                del row["score"]
        steps(folder, lines)
        finals = {client: score + shift for client, score in FINALS.items()}
        summary(folder, finals, experts=1 + (name == "fedlease"), metric="rouge1", **ROUGE)
        if samples:
            kept = sample(text, "In Norway.", "Oslo Oslo", f"{name} says Norway")
            put(folder / "samples.json", {client: [kept] for client in CLIENTS})
    return out


def hostile_samples(out: Path) -> Path:
    """Prompts and answers that try to be markup, templates, and to turn the reading direction."""
    generated(out)
    texts = [sample(text, text, text, text) for text in (*HOSTILE, QUOTE)]
    put(out / "samples.json", {client: texts for client in CLIENTS})
    return out


def hostile(out: Path) -> Path:
    """A finished run whose clients, tasks, reasons and warnings try to be markup."""
    clients = dict(zip(IDS, (IMAGE, SCRIPT, IMAGE, SCRIPT), strict=True))
    bare(out, clients)
    put(out / "environment.json", {"format": FORMAT, "run": RUN, "data_warnings": [IMAGE, SCRIPT], "platform": SCRIPT})
    scores = dict.fromkeys(IDS, 0.5)
    steps(out, [line(1, 0, scores, {IMAGE: SCRIPT}), line(2, 1, scores)])
    names = sorted(IDS)
    assignment = {name: place // 2 for place, name in enumerate(names)}
    allocation(out, DISTANCES, assignment, {"2": 0.7, "3": 0.3}, warnings=[IMAGE])
    summary(out, scores, clients)
    entry = {"client": IMAGE, "task": SCRIPT, "expert": 0, "distances": [0.5, 1], "margin": 0.5, "unlike": True}
    put(out / "onboarded" / IMAGE / "onboarding.json", {**entry, "scores": {SCRIPT: 0.5}})
    return out


def on_halves(out: Path, groups: tuple[int, ...] = (0, 0, 1, 2), **more: Any) -> Path:
    """Four clients that warmed up on halves: a0, a1 of one task, b0 of another, and b1, which has learnt nothing.

    a0 and a1 stand at 0.95 +- 0.1, b0 at 0.2 +- 0.05 of a0 and 0.4 +- 0.15 of a1; what b1 is like is noise.
    """
    bare(out, method="fedlease-plus")
    assignment = dict(zip(CLIENTS, groups, strict=True))
    corrected = [[1, 0.95, 0.2, 3.5], [0.95, 1, 0.4, -2], [0.2, 0.4, 1, 0.9], [3.5, -2, 0.9, 1]]
    errors = [[0, 0.1, 0.05, 2], [0.1, 0, 0.15, 2], [0.05, 0.15, 0, 2], [2, 2, 2, 0]]
    halves = {
        "reliability": {"a0": 0.5, "a1": 0.25, "b0": 0.375, "b1": 0.03}, "corrected": corrected,
        "corrected_error": errors, "unsure": ["b1"],
        "evidence": {"a0": 3.5, "a1": 0.9, "b0": 1.0, "b1": 0.1},
        "warnings": ["client 'b1' has not learnt enough to tell who has its task (reliability 0.03): it stays alone"],
    }  # fmt: skip
    allocation(out, DISTANCES, assignment, {}, **{**halves, **more})
    return out
