"""The commented YAML file that ``fedlease init`` writes."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from fedlease.config.layers import dump_yaml
from fedlease.config.settings import Settings
from fedlease.config.tables import known_tasks
from fedlease.core.wording import counted, printable
from fedlease.data.federation import Federation
from fedlease.data.reading.columns import Guess

__all__ = ["settings_text"]

MORE = {
    "warmup.epochs": "passes over each client's rows before clients are grouped",
    "rounds": "rounds after that, in which the clients of a group share an adapter",
    "train.lr": "learning rate",
    "train.batch_size": "rows per step",
    "lora.r": "rank of an adapter: a higher one learns more and sends more",
    "seed": "seed of every random choice",
}
"""Settings that are listed with their defaults at the end of the file."""

MODELS = {
    "minilm": "A small sentence encoder for English that comes as a package. A folder or a hub id of any other model "
    "that transformers can load does as well, such as microsoft/deberta-v3-base, or xlm-roberta-base for other "
    "languages.",
    "smollm2": "A small language model that comes as a package; a folder or a hub id of any other does as well, such "
    "as Qwen/Qwen2.5-0.5B-Instruct.",
}


def settings_text(
    content: Mapping[str, Any], settings: Settings, guess: Guess, federation: Federation, name: str, skew: str
) -> str:
    """The text of the file.

    Args:
        content: the settings in the file.
        settings: the same settings, resolved.
        guess: roles of the columns, with reasons.
        federation: the rows.
        name: of the file, for the commands in it.
        skew: describes uneven labels; empty if they are even.
    """
    rows = [sum(len(client.splits[split]) for client in federation) for split in ("train", "test")]
    labels = sorted({label for client in federation for label in client.labels})
    known = f", {counted(len(labels), 'label')}" if labels else ""
    data = settings.data
    comments = {
        "task": f"One of {', '.join(known_tasks())}: {guess.why.get('task', 'as stated')}.",
        "model": MODELS.get(settings.model, ""),
        "metric": "The headline metric. Accuracy hardly shows rare labels; macro F1 gives all labels the same weight: "
        f"{skew}.",
        "baselines": "local trains every client alone; gains from joining are measured against it. Another baseline is "
        "fedit, one adapter for all.",
        "data.path": "Relative to the folder in which fedlease is called.",
        "data.label_separator": "Separates the labels of a row.",
        "data.columns": "Names of your columns, and the reasons for the guesses.",
        "data.bad_rows": "Unusable rows are left out and counted (drop), or stop the run (refuse).",
        "data.max_tokens": f"Longer rows are cut; `fedlease check {name}` counts them.",
        **{f"data.columns.{key}": why for key, why in guess.why.items()},
    }
    if rows[1] and data.source == "folder":
        comments["data.path"] += f" For a client without test rows, {data.test_fraction:g} of its rows are held out for"
        comments["data.path"] += " testing (test_fraction)."
    defaults = settings.model_dump(mode="json")
    lines = [
        f"# Written by `fedlease init {printable(str(data.path))}`: {counted(len(federation), 'client')}{known}, "
        f"{rows[0]:,} train and {rows[1]:,} test rows.",
        "#",
        f"#   fedlease check {name}    reads all rows, and estimates time, memory and bytes",
        f"#   fedlease run {name}      trains, and writes a run folder with report.html",
        "",
        *_lines(content, comments),
        "",
        "# Often changed, with their current values; `fedlease settings` lists all, `fedlease settings WORD` some:",
        *(f"# {key}: {_at(defaults, key)}    # {words}" for key, words in MORE.items() if _at(content, key) is None),
    ]
    return "\n".join(lines) + "\n"


def _lines(content: Mapping[str, Any], comments: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in content.items():
        comment = comments.get(prefix + key, "")
        comment = comment[:1].upper() + comment[1:]
        yield from (
            f"{indent}# {line}" for line in textwrap.wrap(printable(comment), 100 - len(indent), break_on_hyphens=False)
        )
        if prefix + key in ("data", "data.columns"):
            yield f"{indent}{key}:"
            yield from _lines(value, comments, f"{prefix}{key}.")
        else:
            yield from (indent + line for line in dump_yaml({key: value}).splitlines())


def _at(content: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None without it."""
    head, _, rest = key.partition(".")
    value = content.get(head)
    return _at(value, rest) if rest and isinstance(value, Mapping) else value if not rest else None
