"""Whatever changes what a base computes changes its fingerprints, and nothing else does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import edit, edit_weights, flip, save_checkpoint

from fedlease.errors import RunFolderError
from fedlease.models.base import load_base, load_tokenizer
from fedlease.models.fingerprints import check_files, file_prints, fingerprint
from fedlease.models.sources import ModelSource, model_folder


def source(folder: Path) -> ModelSource:
    return ModelSource("m", str(folder))


def print_of(folder: Path, task: str = "classification") -> str:
    base = load_base(source(folder), dtype="float32", dropout=False, task=task)  # type: ignore[arg-type]
    return fingerprint(base, load_tokenizer(source(folder)))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("b") / "m", "bert-body")


@pytest.mark.parametrize("place", [0.1, 0.5, 1.0])
def test_a_single_bit_of_the_weights_is_noticed(place: float, bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "m")
    before = file_prints(source(folder))
    check_files(tmp_path, source(folder), before)
    flip(folder / "model.safetensors", place)
    said = (
        rf"{tmp_path}: the base model in {folder} is no longer the one that the run was trained on: model.safetensors"
    )
    with pytest.raises(RunFolderError, match=said):
        check_files(tmp_path, source(folder), before)
    check_files(tmp_path, source(folder), before, weights=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: flip(folder / "tokenizer.json", 0.9), "tokenizer.json"),
        (lambda folder: edit(folder / "tokenizer_config.json", model_max_length=9), "tokenizer_config.json"),
        (lambda folder: edit(folder / "config.json", layer_norm_eps=0.1), "config.json"),
        (lambda folder: (folder / "added_tokens.json").write_text("{}"), "added_tokens.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: shutil.copy(folder / "model.safetensors", folder / "more.safetensors"), "more.safetensors"),
    ],
)
def test_a_file_that_is_read_is_noticed_when_it_changes_goes_or_comes(
    change: Callable[[Path], object], named: str, bert: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(bert, tmp_path / "m")
    before = file_prints(source(folder))
    change(folder)
    with pytest.raises(RunFolderError, match=rf"trained on: {named} changed"):
        check_files(tmp_path, source(folder), before)


def test_files_that_are_not_read_may_come_and_go(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "m")
    before = file_prints(source(folder))
    for name in ("README.md", "pytorch_model.bin", "notes.txt"):  # safetensors go before the other
        (folder / name).write_text("x")
    check_files(tmp_path, source(folder), before)


@pytest.mark.parametrize(
    "kept",
    [None, {}, [], "abc", {"../model.safetensors": "0"}, {"a/b.model": "0"}, {"x\x1b.jinja": "0"}, {"x.py": "0"}],
)
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_a_run_folder_that_names_no_files_is_refused(kept: object, where: str, bert: Path, tmp_path: Path) -> None:
    found = source(bert) if where == "folder" else ModelSource("somebody/tiny", "somebody/tiny", "0" * 40)
    with pytest.raises(RunFolderError, match=r"environment\.json is damaged: it names no files of the base model"):
        check_files(tmp_path, found, kept)


def test_digests_of_any_kind_are_compared(bert: Path, tmp_path: Path) -> None:
    for value in (1, None, [], "0"):
        with pytest.raises(RunFolderError, match="is no longer the one"):
            check_files(tmp_path, source(bert), {**file_prints(source(bert)), "model.safetensors": value})


def test_a_model_of_the_hub_is_compared_by_the_files_that_were_read(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the hub's cache as ``huggingface_hub`` lays it out; nothing is downloaded."""
    commit = "0" * 40
    home = tmp_path / "models--somebody--tiny"
    snapshot = home / "snapshots" / commit
    shutil.copytree(bert, snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub = ModelSource("somebody/tiny", "somebody/tiny", commit)
    assert model_folder(hub) == snapshot
    before = file_prints(hub)
    assert before == file_prints(source(bert))
    (snapshot / "added_tokens.json").write_text("{}")  # fetched by somebody else: a commit does not change
    check_files(tmp_path, hub, before)
    flip(snapshot / "model.safetensors")
    with pytest.raises(RunFolderError, match="the base model in somebody/tiny is no longer"):
        check_files(tmp_path, hub, before)


def test_server_and_nodes_compare_every_weight_and_what_the_tokenizer_does(bert: Path, tmp_path: Path) -> None:
    first = print_of(bert)
    folder = shutil.copytree(bert, tmp_path / "m")
    assert print_of(folder) == first
    # Another form of the same model is the same.
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content, indent=3))
    assert print_of(folder) == first

    def nudge(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        held["encoder.layer.1.output.dense.weight"][3, 5] += 1e-3
        return held

    edit_weights(folder, nudge)
    assert print_of(folder) != first
    edit(tmp_path / "m" / "tokenizer.json", post_processor=None)
    shutil.copy(bert / "model.safetensors", folder / "model.safetensors")
    assert print_of(folder) != first


def test_a_language_models_output_layer_counts(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "llama", tokenizer="generation", tie_word_embeddings=False)
    first = print_of(folder, "generation")
    edit_weights(folder, lambda held: {**held, "lm_head.weight": held["lm_head.weight"] * 1.001})
    assert print_of(folder, "generation") != first
