"""Every shipped preset resolves, says its command, and survives being written and read."""

import shlex
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest

from fedlease.config.settings import Settings, preset_names, preset_text, resolve
from fedlease.errors import ConfigError


def yaml_files(folder: Traversable) -> list[str]:
    """Names below the presets folder, however deep."""
    found: list[str] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += yaml_files(entry)
        elif entry.name.endswith((".yaml", ".yml")):
            found.append(entry.name.rsplit(".", 1)[0])
    return found


SHIPPED = sorted(yaml_files(resources.files("fedlease.config") / "presets"))


def test_the_presets_of_the_issue_are_shipped_and_every_file_is_listed() -> None:
    assert {"quickstart", "paper-nlu", "paper-nlg", "flan-small", "glue-small", "released-code", "smoke"} <= set(
        SHIPPED
    )
    assert preset_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_its_first_line_is_a_comment_with_the_command_that_runs_it(name: str) -> None:
    words = shlex.split(preset_text(name).splitlines()[0].removeprefix("# "))
    assert preset_text(name).startswith("# fedlease run")
    # The quickstart is what `fedlease run` does without arguments.
    assert words[:2] == ["fedlease", "run"]
    assert words[2:4] == ([] if name == "quickstart" else ["--preset", name])


@pytest.mark.parametrize("name", SHIPPED)
def test_it_resolves_and_round_trips_through_yaml(name: str, tmp_path: Path) -> None:
    settings = resolve(preset=name)
    file = tmp_path / "config.yaml"
    file.write_text(settings.to_yaml(), encoding="utf-8")
    assert resolve(file) == settings
    assert settings != Settings()


def test_no_argument_at_all_is_the_quickstart() -> None:
    assert resolve() == resolve(preset="quickstart")


def test_the_paper_preset_holds_the_papers_numbers() -> None:
    # paper.md, "Experiments in the paper", column NLU; 25 rounds of 2 epochs, 5 of them before the allocation.
    paper = resolve(preset="paper-nlu")
    assert paper.data.tasks == ("sst2", "qnli", "mrpc", "qqp")
    assert (paper.data.clients_per_task, paper.data.train_rows, paper.data.test_rows) == (4, 1000, 200)
    assert (paper.lora.r, paper.lora.alpha, paper.lora.dropout) == (4, 16, 0.05)
    assert (paper.train.lr, paper.train.weight_decay, paper.train.batch_size) == (3e-3, 0.05, 128)
    assert paper.warmup.epochs + paper.rounds * paper.train.local_epochs == 25 * 2
    assert (paper.warmup.epochs, paper.max_experts, paper.min_silhouette) == (5 * 2, 8, -1)
    # What the paper leaves open is as in its code: the defaults of the trainer of transformers, anew for each round.
    assert (paper.train.lr_schedule, paper.train.clip_norm, paper.warmup.as_rounds) == ("linear", 1.0, True)


def test_released_code_differs_from_the_paper_in_head_and_most_experts_and_runs_no_baselines() -> None:
    paper = resolve(preset="paper-nlu", overrides={"head": "frozen", "baselines": [], "max_experts": 4})
    assert resolve(preset="released-code") == paper


def test_an_unknown_preset_is_refused_with_the_nearest_and_the_valid_names() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(preset="qickstart")
    valid = ", ".join(SHIPPED)
    assert caught.value.faults == (f"preset: unknown preset 'qickstart'; did you mean 'quickstart'? valid: {valid}",)
