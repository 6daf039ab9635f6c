"""FLAN, for generation: from the Hugging Face hub, or from a folder of files in FedDPA's format.

Wei et al., "Finetuned Language Models Are Zero-Shot Learners", ICLR 2022, https://arxiv.org/abs/2109.01652. Categories
have the names of its code (``flan/task_splits.py``).

    DIR/client_<k>.jsonl        or another known file type: rows of one category, named in the column category
    DIR/test_<category>.jsonl   test rows of one category

Rows have any form of :mod:`fedlease.data.reading.prompts`; FedDPA's have ``instruction`` and ``output``. From the hub
each category is one of its tasks: the task that FedDPA (Yang et al., NeurIPS 2024) uses, if FedDPA has the category.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind
from fedlease.core.wording import counted
from fedlease.data.dealing import clients_of, drop_duplicates, federation, generator, ran_out, window
from fedlease.data.faults import Faults
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.reading.examples import client_id_fault
from fedlease.data.reading.forms import Form, guess_notes
from fedlease.data.reading.prompts import read_prompt_examples
from fedlease.data.reading.tables import SUFFIXES, read_table, split_name
from fedlease.data.sources.hub import load_split
from fedlease.errors import DataError

__all__ = ["HUB_ID", "HUB_TASKS", "PAPER", "load"]

HUB_ID = "Muennighoff/flan"

PAPER = ("text_formatting", "structure_to_text", "sentiment", "common_sense")
"""The categories of the paper: text editing, struct to text, sentiment analysis and commonsense reasoning."""

HUB_TASKS: Mapping[str, str] = {
    "text_formatting": "fix_punct",
    "structure_to_text": "web_nlg_en",
    "sentiment": "sst2",
    "common_sense": "piqa",
    "coreference": "definite_pronoun_resolution",
    "entailment": "snli",
    "linguistic_acceptability": "cola",
    "paraphrase": "glue_qqp",
    "question_classification": "trec",
    "word_disambiguation": "wic",
}
"""Category -> its task on the hub."""

CATEGORY = "category"


Pool = tuple[Sequence[Row], Sequence[Row]]
"""Train and test rows of one category, before they are dealt to clients."""


def load(settings: DataSettings, seed: int, kind: RowKind = "responses") -> Federation:
    """Deals each category to ``clients_per_task`` clients called ``<category>-0``, ``<category>-1``, ...

    Each client gets ``train_rows`` and ``test_rows`` rows, or an equal share of all rows where these are not set.
    Clients have disjoint rows, unless there are too few and ``share_rows`` is set. Train rows whose prompt is a test
    prompt of the category are left out.

    Raises:
        DataError: a file is missing or faulty, the hub cannot be reached, or there are too few rows.
    """
    faults, notes = Faults(), list[str]()
    pools = (
        _from_hub(settings, notes) if settings.path is None else _from_folder(settings.path, settings, faults, notes)
    )
    faults.check()
    clients: list[ClientData] = []
    for category, pool in sorted(pools.items()):
        clients += _deal(category, _without_overlap(category, pool, notes), settings, seed, faults, notes)
    faults.check()
    return federation(clients, notes)


def _without_overlap(category: str, pool: Pool, notes: list[str]) -> Pool:
    train, again = drop_duplicates(pool[0])
    test, twice = drop_duplicates(pool[1])
    if again + twice:
        notes.append(f"category {category!r}: {again + twice} duplicate rows dropped")
    asked = {row.question for row in test}
    kept = [row for row in train if row.question not in asked]
    if len(kept) < len(train):
        dropped = counted(len(train) - len(kept), "train row")
        notes.append(f"category {category!r}: {dropped} dropped because a test row has the same prompt")
    return kept, test


def _deal(
    category: str, pool: Pool, settings: DataSettings, seed: int, faults: Faults, notes: list[str]
) -> list[ClientData]:
    """The clients of a category; none, with a fault, if there are too few rows."""
    count, dealt = settings.clients_per_task, []
    for split, members, wanted in zip(("train", "test"), pool, (settings.train_rows, settings.test_rows), strict=True):
        rows = list(members)
        generator(seed, "deal", category, split).shuffle(rows)
        share = len(rows) // count
        size = wanted or max(share, 1)
        if size <= share:
            dealt.append([rows[index * share : index * share + size] for index in range(count)])
        elif settings.share_rows and size <= len(rows):
            notes.append(
                f"category {category!r}: {counted(len(rows), f'{split} row')} for {counted(count, 'client')}, so "
                f"shared rows fill {counted(count * size - len(rows), 'place')}"
            )
            dealt.append([window(rows, index * size, size) for index in range(count)])
        else:
            need = f"{wanted or 'at least 1'} rows (data.{split}_rows)"
            faults.add(ran_out(f"category {category!r}", f"{split} rows", need, len(rows), settings))
    return clients_of(category, (), zip(*dealt, strict=True) if len(dealt) == 2 else (), settings, seed, "responses")


def _from_folder(folder: Path, settings: DataSettings, faults: Faults, notes: list[str]) -> dict[str, Pool]:
    others = ", ".join(SUFFIXES[1:])
    if not folder.is_dir():
        raise DataError(f"data.path: {str(folder)!r} is not a folder of FLAN files such as client_0.jsonl")
    files = _files(folder, faults)
    train: dict[str, list[Row]] = {}
    clients = [path for stem, path in files.items() if stem.startswith("client_")]
    for path in clients:
        category, rows = _rows(path, settings, faults, notes)
        train.setdefault(category, []).extend(rows)
    if not clients:
        faults.add(f"data.path: {str(folder)!r} has no client_0.jsonl, client_1.jsonl, ... (or {others})")
    faults.check()
    wanted = sorted(train) if settings.categories is None else list(dict.fromkeys(settings.categories))
    pools: dict[str, Pool] = {}
    for category in wanted:
        file = files.get(f"test_{category}")
        if category not in train:
            faults.add(f"data.categories: {folder} has no category {category!r}; it has {', '.join(sorted(train))}")
        elif file is None:
            faults.add(
                f"data.path: category {category!r} has no test rows: no {folder}/test_{category}.jsonl (or {others})"
            )
        else:
            pools[category] = train[category], _rows(file, settings, faults, notes, category)[1]
    return pools


def _files(folder: Path, faults: Faults) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem, suffix = split_name(path)
        if suffix in SUFFIXES and stem in files:
            faults.add(f"data.path: rows of {stem} are in several files: {files[stem]}, {path}")
        elif suffix in SUFFIXES:
            files[stem] = path
    return files


def _rows(
    path: Path, settings: DataSettings, faults: Faults, notes: list[str], tested: str | None = None
) -> tuple[str, list[Row]]:
    """The category and the rows of a file.

    Args:
        tested: the category of a file of test rows, which need not name it; None for a client's file, which must.
    """
    before = faults.count
    table = read_table(path, faults, settings.limits, Form.of(settings))
    notes += guess_notes([table]) if table else []
    columns = settings.columns.model_copy(update={"task": CATEGORY})
    examples = read_prompt_examples(table, columns, faults) if table else []
    if not examples and faults.count == before:
        faults.add(f"{path}: has no rows")
    category = tested or next((example.task for example in examples), "")
    for example in examples:
        if example.task != category and not (tested and example.task == "default"):
            rule = f"the rows of a file must have one category, here {category!r}, got {example.task!r}"
            faults.at(*example.place, CATEGORY, rule)
    if table and examples and not tested:
        if CATEGORY not in table.columns:
            faults.add(f"{path}: no column {CATEGORY!r}; it has {', '.join(map(repr, table.columns))}")
        if unsafe := client_id_fault(category):
            faults.at(*examples[0].place, CATEGORY, f"category {category!r} {unsafe}: clients get its name")
    return category, [example.row for example in examples]


def _from_hub(settings: DataSettings, notes: list[str]) -> dict[str, Pool]:
    wanted = list(dict.fromkeys(settings.categories or PAPER))
    unknown = [category for category in wanted if category not in HUB_TASKS]
    if unknown:
        known = ", ".join(HUB_TASKS)
        raise DataError(
            [f"data.categories: {category!r} is not one of those taken from {HUB_ID}: {known}" for category in unknown]
        )
    return {category: (_hub_rows(category, "train", notes), _hub_rows(category, "test", notes)) for category in wanted}


def _hub_rows(category: str, split: str, notes: list[str]) -> list[Row]:
    # only the file of this task and split is downloaded; other tasks have millions of rows
    file = f"{split}/{HUB_TASKS[category]}_10templates_{split}.jsonl"
    files = f"client_0.jsonl, ... and test_{category}.jsonl"
    loaded = load_split(HUB_ID, split=split, shown=f"{HUB_ID} {file}", files=files, data_files={split: file})
    read = [(values["inputs"], values["targets"]) for values in loaded]
    rows = [Row(prompt, None, 0, response) for prompt, response in read if prompt.strip() and response.strip()]
    if len(rows) < len(read):
        empty = len(read) - len(rows)
        notes.append(f"category {category!r}: {empty} {split} rows of the hub with an empty text left out")
    return rows
