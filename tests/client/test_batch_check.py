"""From files and settings to sentences: chats that a template refuses, and models whose rows cannot stand apart."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import own_rows, small_run, small_settings
from tasks import architectures

from fedlease.errors import DataError, ModelError
from fedlease.runs.check import check_settings
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.batcher import Predictor

STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m['content'] }}\n{% endfor %}"
)


def chats(folder: Path, *roles: str, text: str = "pay") -> Path:
    """Two clients with chats of these roles, the last one's message differing from row to row, and an answer."""
    before = [{"role": role, "content": f"{text} {i}"} for i, role in enumerate(roles[:-1])]
    for client in "ab":
        (folder / client).mkdir(parents=True)
        for split in ("train", "test"):
            lasts = [{"role": roles[-1], "content": f"{split} {client} {i}"} for i in range(4)]
            rows = [[*before, last, {"role": "assistant", "content": f"yes {i}"}] for i, last in enumerate(lasts)]
            lines = [json.dumps({"messages": messages}) for messages in rows]
            (folder / client / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def settings_of(data: Path, model: Path, **changes: Any) -> Any:
    return small_settings(data__source="folder", data__path=str(data), model=str(model), baselines=[], **changes)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strict")
    saved = architectures.save("llama", folder / "saved")
    return architectures.variant(saved, folder / "base", "<s> $A", chat_template=STRICT)


def test_chats_that_the_template_refuses_are_told_with_their_files_and_lines(strict: Path, tmp_path: Path) -> None:
    data = chats(tmp_path / "data", "user", "user")
    with pytest.raises(DataError) as caught:
        check_settings(settings_of(data, strict, task="generation", generation__max_new_tokens=2))
    said = str(caught.value)
    assert f"{data / 'a' / 'train.jsonl'}, line 1: the model's chat template refuses its messages (user, user)" in said
    assert str(data / "b" / "test.jsonl") in said or "more like it" in said


def test_long_chats_are_shortened_by_whole_pairs_and_train(strict: Path, tmp_path: Path) -> None:
    data = chats(tmp_path / "data", "user", "assistant", "user", "assistant", "user", text="a long message")
    report = check_settings(settings_of(data, strict, task="generation", generation__max_new_tokens=2))
    assert report.truncated == 8
    assert any("prompts were cut to data.max_tokens = 24" in warning for warning in report.warnings)


@pytest.fixture(scope="module")
def deberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deberta")
    return architectures.variant(architectures.save("deberta-v2", folder / "saved"), folder / "base", "<s> $A </s>")


def test_a_method_that_weighs_inputs_is_refused_before_training_where_it_cannot(deberta: Path, tmp_path: Path) -> None:
    settings = settings_of(own_rows(tmp_path / "data"), deberta, method="feddpa")
    with pytest.raises(ModelError, match=r"^method: 'feddpa' weighs every input by itself; .* are the first dimension"):
        check_settings(settings)
    with pytest.raises(ModelError, match=r"^method: 'feddpa' weighs every input by itself"):
        small_run(tmp_path / "r", data__path=str(settings.data.path), model=str(deberta), method="feddpa", baselines=[])
    assert not (tmp_path / "r").exists()


def test_a_model_that_cannot_be_served_is_refused_when_the_server_starts(deberta: Path, tmp_path: Path) -> None:
    data = own_rows(tmp_path / "data")
    out = small_run(tmp_path / "r", data__path=str(data), model=str(deberta), rounds=1, baselines=[]).out
    with pytest.raises(ModelError, match=r"for 2 rows; rows of several clients can be computed together only where"):
        Predictor(OpenRun(out))
