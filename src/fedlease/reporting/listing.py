"""Lists the runs in a folder with their methods, scores and states, and compares two runs."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedlease.config.layers import differences
from fedlease.config.settings import Settings
from fedlease.errors import ConfigError, InputError
from fedlease.reporting.formats import percent, points
from fedlease.reporting.means import averaged, finals
from fedlease.reporting.tables import Cell, Table, number, score
from fedlease.storage.environment import Environment, read_environment
from fedlease.storage.rounds import read_rounds
from fedlease.storage.run_folder import CONFIG, method_files, read_settings
from fedlease.storage.summary import Summary, read_result
from fedlease.tasks.metric_words import of_metric

__all__ = ["difference", "difference_tables", "find_runs", "listing", "listing_table"]

DEPTH = 4
"""Levels of folders that are searched for runs; a comparison has its runs in ``<method>/seed-<s>``."""
SHOWN = 30
"""Most clients whose scores are shown side by side; if there are more, those that differ most."""


def find_runs(folder: Path) -> list[Path]:
    """The run folders in a folder, or the folder itself if it is one; run folders are not searched further.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.
    """
    try:
        return sorted(_runs(folder, DEPTH))
    except OSError as error:
        raise ConfigError(f"runs: {folder} cannot be read: {error.strerror}") from error


def listing(folder: Path) -> list[dict[str, Any]]:
    """The content of ``fedlease runs --json``: runs in the order in which they started.

    Each has ``folder``, ``state`` and, unless it cannot be read, ``run``, ``started``, ``goes_on_from`` and
    ``methods``: per method ``method``, ``rounds``, ``state``, ``metric``, ``mean`` and ``averaged``.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.
    """
    found = [_described(run) for run in find_runs(folder)]
    return sorted(found, key=lambda run: (run.get("started") or "", run["folder"]))


def listing_table(folder: Path, runs: list[dict[str, Any]]) -> Table:
    """Tabulates the result of :func:`listing`, with a row for every method of every run."""
    rows = []
    metrics = {method["metric"] for run in runs for method in run.get("methods", ()) if method["metric"]}
    for run in runs:
        name = Cell(os.path.relpath(run["folder"], folder) if run["folder"] != str(folder) else run["folder"])
        if "reason" in run:
            rows.append((name, Cell("-"), Cell("-"), Cell("-"), Cell(run["state"])))
        for method in run.get("methods", ()):
            value = method["mean"]
            text = percent(value) + (f" {of_metric(method['metric']).name}" if value and len(metrics) > 1 else "")
            cells = number(method["rounds"]), Cell(text, value), Cell(method["state"])
            rows.append((name, Cell(method["method"]), *cells))
            name = Cell("")
    what = f"{of_metric(*metrics).name}, %" if len(metrics) == 1 else "score, %"
    return Table(f"runs in {folder}", ("run", "method", "rounds", what, "state"), tuple(rows))


def difference(first: Path, second: Path) -> dict[str, Any]:
    """The content of ``fedlease diff --json`` on two runs; each pair of values is in the order of the runs.

    It has ``runs``; ``same_rows``, whether the rows are the same; ``settings`` that differ, by dotted key; ``groups``,
    the expert of every client under the main methods, counted from 0; ``moved``, the clients that are grouped with
    other clients than before; and ``scores``, per method that both runs have finished, with ``metric``, ``mean`` and
    ``clients``.

    Raises:
        RunFolderError: one of them is no run folder, or is damaged.
    """
    found = [(folder, read_settings(folder), read_environment(folder)) for folder in (first, second)]
    (_, mine, here), (_, other, there) = found
    ours, theirs = (settings.model_dump(mode="json") for settings in (mine, other))
    summaries = [_summaries(folder, settings) for folder, settings, _ in found]
    main = [own.get(settings.method) for own, (_, settings, _) in zip(summaries, found, strict=True)]
    groups = [dict(summary.assignment) if summary else {} for summary in main]
    everyone = sorted({*groups[0], *groups[1]})
    pairs = {name: (summary, summaries[1].get(name)) for name, summary in summaries[0].items()}
    if mine.method != other.method and main[0] and main[1]:
        pairs[f"{mine.method} and {other.method}"] = (main[0], main[1])
    return {
        "runs": [
            {"folder": str(folder), "run": env.run, "started": env.started, "method": settings.method}
            for folder, settings, env in found
        ],
        "same_rows": here.data_fingerprint == there.data_fingerprint,
        "settings": {key: [a, b] for key, a, b in differences(ours, theirs)},
        "groups": {client: [own.get(client) for own in groups] for client in everyone},
        "moved": [c for c in everyone if _companions(groups[0], c) != _companions(groups[1], c)] if all(groups) else [],
        "scores": {
            name: {
                "metric": one.metric,
                "mean": [one.mean, two.mean],
                "clients": {c: [a.get(c), b.get(c)] for a, b in [(finals(one), finals(two))] for c in sorted({*a, *b})},
            }
            for name, (one, two) in pairs.items()
            if two is not None and one.metric == two.metric
        },
    }


def difference_tables(content: Mapping[str, Any]) -> Iterator[Table | str]:
    """Renders the result of :func:`difference` as tables and sentences; A is the first run, B the second."""
    a, b = content["runs"]
    yield f"A: {a['folder']} ({a['method']})"
    yield f"B: {b['folder']} ({b['method']})"
    if not content["same_rows"]:
        yield "The rows differ, so that scores are not of the same test rows."
    if content["settings"]:
        rows = [(Cell(key), *(Cell(_shown(value)) for value in pair)) for key, pair in content["settings"].items()]
        yield Table("settings that differ", ("setting", "A", "B"), tuple(rows))
    else:
        yield "The settings are the same."
    yield from _groups(content)
    yield from _scores(content["scores"])


def _groups(content: Mapping[str, Any]) -> Iterator[Table | str]:
    groups, moved = content["groups"], content["moved"]
    if not groups:
        return
    if all(None not in pair for pair in groups.values()) and not moved:
        yield f"The groups are the same: {len({pair[0] for pair in groups.values()})} among {len(groups)} clients."
        return
    rows = tuple(
        (Cell(c), *(number(None if e is None else e + 1) for e in pair), Cell("with others" if c in moved else ""))
        for c, pair in groups.items()
    )
    yield Table("experts of the clients, counted from 1", ("client", "A", "B", ""), rows)


def _scores(scores: Mapping[str, Any]) -> Iterator[Table | str]:
    if not scores:
        yield "No method of one metric is finished in both, so that there are no scores to show."
        return
    name, main = next(iter(scores.items()))
    clients = main["clients"]
    most = sorted(clients, key=lambda c: -abs(_gap(clients[c]) or 0.0))[:SHOWN]
    rows = tuple(_row(client, clients[client]) for client in sorted(most))
    foot = tuple(_row(f"mean of {method}", found["mean"]) for method, found in scores.items())
    words = of_metric(main["metric"]).name
    yield Table(f"{words} of {name} in %, on each client's own test rows", ("client", "A", "B", "B - A"), rows, foot)
    if len(clients) > len(most):
        yield f"Shown are the {len(most)} of {len(clients)} clients that differ most; --json has all."


def _row(name: str, pair: list[float | None]) -> tuple[Cell, ...]:
    gap, best = _gap(pair), max((v for v in pair if v is not None), default=None)
    return Cell(name), *(score(v, best) for v in pair), Cell("-" if gap is None else points(gap), gap)


def _gap(pair: list[float | None]) -> float | None:
    one, two = pair
    return None if one is None or two is None else two - one


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def _companions(groups: Mapping[str, int], client: str) -> set[str]:
    return {other for other in groups if client in groups and groups[other] == groups[client]}


def _summaries(folder: Path, settings: Settings) -> dict[str, Summary]:
    found = {name: read_result(method_files(folder, settings, name)) for name in (settings.method, *settings.baselines)}
    return {name: summary for name, summary in found.items() if summary is not None}


def _described(folder: Path) -> dict[str, Any]:
    try:
        settings, environment = read_settings(folder), read_environment(folder)
        methods = [_method(folder, settings, name) for name in (settings.method, *settings.baselines)]
    except InputError as error:
        return {"folder": str(folder), "state": "cannot be read", "reason": error.faults[0]}
    done = all(method["mean"] is not None for method in methods)
    return {"folder": str(folder), "state": "finished" if done else "not finished", **_facts(environment, methods)}


def _facts(environment: Environment, methods: list[dict[str, Any]]) -> dict[str, Any]:
    before = [run.name for run in environment.continued]
    return {"run": environment.run, "started": environment.started, "goes_on_from": before, "methods": methods}


def _method(folder: Path, settings: Settings, name: str) -> dict[str, Any]:
    files = method_files(folder, settings, name)
    summary = read_result(files)
    found: dict[str, Any] = {"method": name, "rounds": settings.rounds, "metric": None, "mean": None, "averaged": None}
    if summary is not None:
        found |= {"metric": summary.metric, "mean": summary.mean, "averaged": len(averaged(summary))}
        kept = summary.early_stopping
        return found | {"state": "finished" if kept is None else f"finished, round {kept.best_round} kept"}
    steps = len(read_rounds(files.folder))
    return found | {"state": f"after step {steps}" if steps else "not begun"}


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / CONFIG).is_file() and (folder / "environment.json").is_file():
        yield folder
        return
    with os.scandir(folder) as entries:
        inner = [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    for path in inner if depth else ():
        try:
            yield from _runs(path, depth - 1)
        except PermissionError:
            continue
