"""A preset gives way to what the user says; what one user's settings contradict is refused."""

from pathlib import Path

import pytest

from fedlease.config.precedence import is_stated
from fedlease.config.settings import Settings, preset_names, resolve
from fedlease.config.tables import SOURCES, TASKS
from fedlease.errors import ConfigError
from fedlease.methods.registry import known_methods
from fedlease.models.limits import fitted_lengths


def faults(*words: str, path: Path | None = None, preset: str | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        resolve(path, preset=preset, overrides=words)
    return error.value.faults


class TestBaselines:
    def test_those_of_a_preset_are_run_beside_any_method(self) -> None:
        offenders = []
        for preset in preset_names():
            own = resolve(preset=preset).baselines
            for method in known_methods():
                found = resolve(preset=preset, overrides=[f"method={method}"])
                if (found.method, found.baselines) != (method, tuple(name for name in own if name != method)):
                    offenders.append((preset, method, found.baselines))
        assert offenders == []

    def test_the_quickstart_and_a_file_that_builds_on_a_preset_give_way_too(self, tmp_path: Path) -> None:
        assert resolve(overrides=["method=local"]).baselines == ("fedit",)
        file = tmp_path / "run.yaml"
        file.write_text("preset: smoke\nmethod: fedit\n")
        assert resolve(file).baselines == ("local",)
        assert resolve(file, overrides=["method=local"]).baselines == ("fedit",)

    def test_those_that_the_user_names_are_refused_wherever_they_are_named(self, tmp_path: Path) -> None:
        said = ("baselines: 'fedit' is the method itself",)
        assert faults("method=fedit", "baselines=[fedit]", preset="smoke") == said
        file = tmp_path / "run.yaml"
        file.write_text("preset: smoke\nbaselines: [fedit, local]\n")
        assert faults("method=fedit", path=file) == said
        with pytest.raises(ConfigError, match="'fedit' is the method itself"):
            resolve(base=resolve(preset="smoke", overrides=["baselines=[fedit]"]), overrides={"method": "fedit"})

    def test_settings_to_start_from_remember_what_was_said(self) -> None:
        base = resolve(preset="smoke", overrides=["rounds=1"])
        assert resolve(base=base, overrides={"method": "fedit"}).baselines == ("local",)
        assert resolve(base=Settings.model_validate(base.model_dump())) == base


class TestTaskSourceAndModel:
    @pytest.mark.parametrize("preset", preset_names())
    @pytest.mark.parametrize("task", ["classification", "generation"])
    def test_own_rows_of_either_task_go_with_every_preset(self, preset: str, task: str) -> None:
        found = resolve(preset=preset, overrides=[f"task={task}", "data.path=rows"])
        assert found.task == task
        assert TASKS[task].rows in SOURCES[found.data.source].rows
        before = resolve(preset=preset)
        if task == "generation" != before.task:
            # An encoder writes no answers.
            assert found.model == ("tiny-random" if preset == "smoke" else "smollm2")
        else:
            assert found.model == before.model

    def test_the_task_follows_the_source(self) -> None:
        offenders = []
        for preset in preset_names():
            for source in SOURCES.keys() - {"folder"}:
                found = resolve(preset=preset, overrides=[f"data.source={source}"])
                if found.data.source != source or TASKS[found.task].rows not in SOURCES[source].rows:
                    offenders.append((preset, source, found.task))
        assert offenders == []

    def test_what_the_user_says_of_both_stays_as_it_is(self) -> None:
        found = resolve(overrides=["task=generation", "data.source=quickstart", "model=minilm"])
        assert (found.task, found.data.source, found.model) == ("generation", "quickstart", "minilm")
        assert resolve(overrides=["task=generation", "model=minilm", "data.path=rows"]).model == "minilm"

    def test_ways_of_dealing_go_where_the_users_source_has_none(self, tmp_path: Path) -> None:
        assert resolve(preset="paper-nlu").data.share_rows
        for data in (["data.source=folder", f"data.path={tmp_path}"], ["data.source=synthetic"]):
            assert not resolve(preset="paper-nlu", overrides=data).data.share_rows


class TestQuantisation:
    @pytest.mark.parametrize(
        ("device", "left"), [("cpu", "int8"), ("cuda:1", "int8"), ("auto", "int8"), ("mps", "none")]
    )
    def test_it_gives_way_to_a_device_that_cannot(self, device: str, left: str) -> None:
        assert resolve(preset="paper-nlg", overrides=[f"device={device}"]).base.quantisation == left

    def test_the_users_own_stays(self) -> None:
        found = resolve(preset="paper-nlg", overrides=["device=mps", "base.quantisation=nf4"])
        assert found.base.quantisation == "nf4"


class TestSaid:
    def test_what_is_said_is_what_the_user_gave_in_any_layer(self, tmp_path: Path) -> None:
        file = tmp_path / "run.yaml"
        file.write_text("preset: smoke\nlora: {r: 3}\ndata.path: rows\n")
        found = resolve(file, overrides=["train.lr=1e-3"])
        keys = ("lora.r", "data.path", "train.lr", "lora.alpha", "data.max_tokens", "rounds", "data.source", "model")
        assert [is_stated(found, key) for key in keys] == [True] * 3 + [False] * 5
        assert is_stated(resolve(base=found, overrides={"rounds": 1}), "lora.r")


class TestLengths:
    """paper-nlg has data.max_tokens 512 and generation.max_new_tokens 128, smoke has 48 and does not generate."""

    @pytest.mark.parametrize(
        ("preset", "limit", "words", "rows", "answers"),
        [
            ("smoke", 48, [], 48, 64),
            ("smoke", 40, [], 40, 64),
            ("paper-nlg", 640, [], 512, 128),
            ("paper-nlg", 512, [], 384, 128),  # 512 - 128
            ("paper-nlg", 100, [], 50, 50),  # half for each
            ("paper-nlg", 100, ["data.max_tokens=90"], 90, 10),
            ("paper-nlg", 100, ["generation.max_new_tokens=20"], 80, 20),
        ],
    )
    def test_a_presets_are_cut_to_what_the_model_reads(
        self, preset: str, limit: int, words: list[str], rows: int, answers: int
    ) -> None:
        settings = resolve(preset=preset, overrides=words)
        found, notes = fitted_lengths(settings, limit)
        assert (found.data.max_tokens, found.generation.max_new_tokens) == (rows, answers)
        assert len(notes) == (rows != settings.data.max_tokens) + (answers != settings.generation.max_new_tokens)
        for note in notes:
            assert note.endswith(f", since model {settings.model!r} reads {limit} tokens")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["data.max_tokens=101"], "data.max_tokens: 101 and generation.max_new_tokens = 128 are more than the 100"),
            (["generation.max_new_tokens=60", "data.max_tokens=41"], "41 and generation.max_new_tokens = 60"),
            (["task=classification", "data.max_tokens=101"], "data.max_tokens: 101 are more than the 100 tokens"),
        ],
    )
    def test_the_users_are_refused(self, words: list[str], said: str) -> None:
        with pytest.raises(ConfigError) as error:
            fitted_lengths(resolve(preset="paper-nlg", overrides=["data.path=rows", *words]), 100)
        assert said in str(error.value)


def test_one_word_guards_a_run_and_what_is_stated_stands_against_it() -> None:
    settings = resolve(overrides=["bounds.guarded=true"])
    assert (settings.fedlease.average, settings.fedlease_plus.average, settings.bounds.against) == (
        "median", "median", "refuse",
    )  # fmt: skip
    again = resolve(base=settings, overrides={"bounds.against": "name", "fedlease.average": "geometric-median"})
    assert (again.fedlease.average, again.bounds.against) == ("geometric-median", "name")
    own = resolve(overrides=["bounds.guarded=true", "fedlease.average=trimmed", "fedlease.trim=0.25"])
    assert (own.fedlease.average, own.bounds.against) == ("trimmed", "refuse")
    assert resolve(overrides=["bounds.guarded=false"]).fedlease.average == "factors"
