"""Combines ``samples.json`` of all methods into test rows with all answers, and prepares them for the page."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NamedTuple

from fedlease.core.wording import counted, expert_name
from fedlease.errors import RunFolderError
from fedlease.reporting.formats import percent
from fedlease.reporting.run.data import RunData, Sample
from fedlease.storage import summary
from fedlease.storage.run_files import RunFiles

__all__ = ["ClientSamples", "Passage", "read_samples", "shown_samples"]

LONGEST = 1500
"""Most characters of one text on the page."""
MOST_LINES = 40
"""Most lines of one text on the page, which may be empty."""
TAB = "    "


class Passage(NamedTuple):
    """The lines of a named text; ``note`` says if it is empty, cut or missing."""

    name: str
    lines: tuple[str, ...]
    note: str


class ClientSamples(NamedTuple):
    """The samples of a client: prompt, reference and answers of each; ``facts`` describe the client."""

    client: str
    facts: str
    samples: tuple[tuple[Passage, ...], ...]


def read_samples(folders: Mapping[str, RunFiles], clients: Mapping[str, Any]) -> dict[str, tuple[Sample, ...]]:
    """Client -> its samples with the answers of all methods that have the file.

    Args:
        folders: method -> files that may include ``samples.json``; the first such file determines the rows.
        clients: ids of the run's clients.

    Raises:
        RunFolderError: a file is damaged.
    """
    found: dict[str, list[Sample]] = {}
    for method, files in folders.items():
        content = summary.read_samples(files)
        if strangers := sorted(content.keys() - clients.keys()):
            raise RunFolderError(f"{files.folder / 'samples.json'} is damaged: the run has no client {strangers[0]!r}")
        for client, rows in content.items():
            if client not in found:
                found[client] = [Sample(row["prompt"], row["reference"], row["base"], {}) for row in rows]
            found[client] = [
                # Answers to other rows are left out.
                replace(known, answers={**known.answers, method: row["answer"]})
                if row and (row["prompt"], row["reference"]) == (known.prompt, known.reference)
                else known
                for known, row in zip_longest(found[client], rows[: len(found[client])])
            ]
    return {client: tuple(found[client]) for client in clients if found.get(client)}


def shown_samples(run: RunData) -> tuple[ClientSamples, ...]:
    """Samples that the page shows, by client; () without any."""
    experts, finals = run.experts(), run.main.finals
    shown = []
    for client, samples in run.samples.items():
        facts = [run.task(client)]
        if client in experts:
            facts.append(expert_name(experts[client]))
        if client in finals and math.isfinite(finals[client]):
            facts.append(f"{run.words.name} {percent(finals[client])} %")
        shown.append(ClientSamples(client, ", ".join(facts), tuple(_shown(run, sample) for sample in samples)))
    return tuple(shown)


def _shown(run: RunData, sample: Sample) -> tuple[Passage, ...]:
    texts: dict[str, str | None] = {
        "Prompt": sample.prompt,
        "Reference": sample.reference,
        "Untrained model": sample.base,
    }
    texts |= {method.name: sample.answers.get(method.name) for method in run.methods}
    return tuple(
        Passage(name, (), "not on file") if text is None else _passage(name, text) for name, text in texts.items()
    )


def _passage(name: str, text: str) -> Passage:
    if not text.strip():
        return Passage(name, (), f"empty but for {counted(len(text), 'character')} of white space" if text else "empty")
    plain = text.replace("\r\n", "\n").replace("\t", TAB)
    lines = plain[:LONGEST].split("\n")[:MOST_LINES]
    length = len("\n".join(lines))
    cut = f"cut: {length:,} of {counted(len(plain), 'character')} shown" if length < len(plain) else ""
    return Passage(name, tuple(lines), cut)
