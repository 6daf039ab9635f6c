"""Layers, values and faults of settings; every message is tested as text."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedlease.config.data import DataSettings
from fedlease.config.faults import setting_names
from fedlease.config.layers import dump_yaml, parse_yaml
from fedlease.config.sections import LoraSettings
from fedlease.config.settings import Settings, preset_names, resolve
from fedlease.errors import ConfigError

QUICK = "preset: quickstart\n"


def faults(*words: str, path: Path | None = None, preset: str | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        resolve(path, preset=preset, overrides=words)
    return error.value.faults


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


class TestPresets:
    def test_paper_nlu_spends_the_papers_fifty_passes_on_the_papers_rows(self) -> None:
        settings = resolve(preset="paper-nlu")
        # 25 rounds of 2 local epochs, of which the first 5 rounds are the warm-up.
        assert settings.warmup.epochs == 5 * 2
        assert settings.warmup.epochs + settings.rounds * settings.train.local_epochs == 25 * 2
        # 4 clients of 1,000 + 200 rows are more than MRPC's 3,668 + 408.
        assert settings.data.clients_per_task * 1200 > 3668 + 408
        assert settings.data.share_rows

    def test_released_code_differs_from_the_paper_where_it_says(self) -> None:
        paper, released = resolve(preset="paper-nlu"), resolve(preset="released-code")
        same = {"head": paper.head, "baselines": paper.baselines, "max_experts": paper.max_experts}
        assert released.model_copy(update=same) == paper
        assert (released.head, released.weights, released.baselines) == ("frozen", "uniform", ())


class TestLayers:
    def test_nothing_given_is_the_quickstart(self) -> None:
        assert resolve() == resolve(preset="quickstart")

    def test_file_goes_over_preset_and_override_over_file(self, tmp_path: Path) -> None:
        path = written(tmp_path, "preset: smoke\nrounds: 7\nlora:\n  r: 3\n")
        smoke, settings = resolve(preset="smoke"), resolve(path, overrides=["rounds=9"])
        assert (settings.rounds, settings.lora.r) == (9, 3)
        assert settings.lora.alpha == smoke.lora.alpha
        assert settings.train == smoke.train

    def test_a_file_without_preset_builds_on_the_defaults(self, tmp_path: Path) -> None:
        settings = resolve(written(tmp_path, "data: {path: rows}\n"))
        assert settings == Settings(data=DataSettings(path=Path("rows")))

    @pytest.mark.parametrize("text", ["lora.r: 3\ndata.path: x\n", "lora: {r: 3}\ndata: {path: x}\n"])
    def test_keys_of_a_file_are_nested_or_dotted(self, tmp_path: Path, text: str) -> None:
        assert resolve(written(tmp_path, text)).lora == LoraSettings(r=3)

    def test_an_argument_goes_before_the_files_preset(self, tmp_path: Path) -> None:
        path = written(tmp_path, QUICK)
        assert resolve(path, preset="smoke") == resolve(preset="smoke")
        assert resolve(path, overrides=["preset=smoke"]) == resolve(preset="smoke")

    def test_a_mapping_takes_python_values_and_base_takes_the_place_of_a_preset(self) -> None:
        base = resolve(preset="smoke", overrides={"lora.r": 2, "baselines": ["local"]})
        assert (base.lora.r, base.baselines) == (2, ("local",))
        assert resolve(base=base, overrides={"rounds": 5}) == base.model_copy(update={"rounds": 5})

    def test_an_empty_file_gives_no_settings(self, tmp_path: Path) -> None:
        assert resolve(written(tmp_path, "# none\n"), preset="smoke") == resolve(preset="smoke")


class TestOwnRows:
    def test_one_word_turns_the_quickstart_to_them(self) -> None:
        quick, own = resolve(), resolve(overrides=["data.path=rows"])
        assert own.data == DataSettings(source="folder", path=Path("rows"))
        assert own.model_copy(update={"data": quick.data}) == quick
        assert own.baselines == ("fedit", "local")

    def test_the_source_may_be_named_as_well(self) -> None:
        assert resolve(overrides=["data.path=rows", "data.source=folder"]) == resolve(overrides=["data.path=rows"])

    def test_smoke_keeps_its_small_sizes(self) -> None:
        smoke, own = resolve(preset="smoke").data, resolve(preset="smoke", overrides=["data.path=rows"]).data
        assert own == smoke.model_copy(update={"source": "folder", "path": Path("rows")})

    def test_glue_reads_its_rows_from_the_path(self) -> None:
        assert resolve(preset="paper-nlu", overrides=["data.path=rows"]).data.source == "glue"

    def test_a_source_that_has_its_own_rows_refuses_a_path(self) -> None:
        assert faults("data.path=rows", "data.source=synthetic") == (
            "data.path: is not read when data.source is 'synthetic'; leave one of them out",
        )


class TestValues:
    @pytest.mark.parametrize(
        ("word", "value"),
        [
            ("train.lr=1e-3", 0.001),
            ("train.lr=5E-4", 0.0005),
            ("train.lr=.01", 0.01),
            ("lora.alpha=32", 32.0),
            ("rounds=0", 0),
            ("min_silhouette=-1", -1.0),
            ("train.clip_norm=null", None),
            ("train.base_dropout=true", True),
            ("train.base_dropout=yes", True),
            ("baselines=[fedit, local]", ("fedit", "local")),
            ("baselines=[]", ()),
            ("lora.target_modules=[query, value]", ("query", "value")),
            ("data.columns.label=no", "no"),
            ("revision=0123456", "0123456"),
            ("revision=12e4567", "12e4567"),
            ("data.path=2024", Path("2024")),
            ("data.path=[a", Path("[a")),
            ("data.path=a=b", Path("a=b")),
            ("model='with space'", "with space"),
            (" seed = 3 ", 3),
        ],
    )
    def test_words_are_read_as_yaml_and_text_as_written(self, word: str, value: Any) -> None:
        found: Any = resolve(overrides=[word])
        for part in word.partition("=")[0].strip().split("."):
            found = getattr(found, part)
        assert (found, type(found)) == (value, type(value))

    def test_text_settings_are_texts_paths_and_names_of_tables(self) -> None:
        columns = ("text", "text_pair", "label", "prompt", "response", "client", "split", "task")
        expected = {"data.path", "data.source", "task", "method", "model", "revision", "device", "schedule.until"}
        expected |= {"metric", "data.delimiter", "data.encoding", "data.label_separator", "flower.client_keys"}
        expected |= {f"data.columns.{name}" for name in columns}
        assert set(setting_names(Settings, text=True)) == expected

    @given(model=st.text(min_size=1), lr=st.floats(0, 1, exclude_min=True, exclude_max=True), rows=st.integers(1))
    def test_what_is_written_reads_back_equal(self, model: str, lr: float, rows: int) -> None:
        given_values = {"model": model, "train.lr": lr, "data.train_rows": rows, "lora.target_modules": [model]}
        settings = resolve(preset="smoke", overrides=given_values)
        text = settings.to_yaml()
        assert Settings.model_validate(parse_yaml(text)) == settings
        # By libyaml, where it is there: what others read it with.
        assert yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) == parse_yaml(text)

    @pytest.mark.parametrize(
        "text",
        ["1e3", "12e4567", "1e-3", ".5E3", "no", "0123456", "0x1f", "2024-01-01", "1:30", "~", "null", "true", ""],
    )
    def test_text_that_looks_like_something_else_stays_text(self, text: str) -> None:
        assert parse_yaml(dump_yaml([text])) == yaml.safe_load(dump_yaml([text])) == [text]


class TestFaults:
    def test_all_are_reported_at_once(self, tmp_path: Path) -> None:
        path = written(tmp_path, "rounds: many\nlora: {rank: 3}\nmethod: fedleese\n")
        found = faults("train.lr=2", "seed", "max_experts=1", "head=locale", path=path, preset="quikstart")
        assert found == (
            "preset: unknown preset 'quikstart'; did you mean 'quickstart'? valid: " + ", ".join(preset_names()),
            "--set: must be key=value, received 'seed'",
            "rounds: must be a whole number, received 'many'",
            "lora.rank: no such setting; did you mean 'lora.r'?",
            "train.lr: must be below 1, received 2",
            "head: must be one of local, shared, frozen, received 'locale'; did you mean 'local'?",
            "max_experts: must be at least 2, received 1",
        )

    def test_rules_between_settings_come_with_the_others(self) -> None:
        assert faults("rounds=-1", "method=fedleese", "clients_per_round=2", "min_clients=3") == (
            "rounds: must be at least 0, received -1",
            "method: unknown method 'fedleese'; did you mean 'fedlease'?",
            "min_clients: must be at most clients_per_round = 2, received 3",
        )

    @pytest.mark.parametrize(
        ("word", "sentence"),
        [
            ("batch_size=4", "batch_size: no such setting; did you mean 'train.batch_size'?"),
            (
                "lora.zzzzzz=4",
                "lora.zzzzzz: no such setting; valid in lora: alpha, dropout, last_layers, r, target_modules",
            ),
            ("qqqqqqqq=4", "qqqqqqqq: no such setting"),
            ("1.2=3", "1: no such setting"),
            ("min_silhouette=1.5", "min_silhouette: must be at most 1, received 1.5"),
            ("train.weight_decay=.inf", "train.weight_decay: must be finite, received inf"),
            ("rounds=true", "rounds: must not be true or false, received True"),
            ("rounds=" + "x" * 99, "rounds: must be a whole number, received '" + "x" * 79 + " ..."),
            ("rounds=null", "rounds: must be a whole number, received None"),
            (
                "task=generate",
                "task: must be one of classification, multilabel, regression, generation, received 'generate'; "
                "did you mean 'generation'?",
            ),
            (
                "baselines=[quux]",
                "baselines: unknown method 'quux'; fedlease methods lists all",
            ),
            ("lora.target_modules=[1]", "lora.target_modules: must be text, received 1"),
            ("lora.target_modules=[]", "lora.target_modules: must name at least 1, received []"),
            ("data.tasks=[sst2, sst2]", "data.tasks: 'sst2' is named twice"),
            ("model=''", "model: must not be empty, received ''"),
            ("data.path=", "data.path: --set needs a value, received 'data.path='; write data.path=null for none"),
            ("rounds=[1", "rounds: the value is not YAML, received '[1'"),
            ("=3", "--set: must be key=value, received '=3'"),
        ],
    )
    def test_each_names_key_rule_and_value(self, word: str, sentence: str) -> None:
        assert faults(word)[0] == sentence
        assert len(faults(word)) == 1

    def test_own_rows_need_a_path(self, tmp_path: Path) -> None:
        assert faults(path=written(tmp_path, "rounds: 1\n")) == (
            "data.path: is required when data.source is 'folder': the folder or file that holds your rows",
        )

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("a: 1\nb: [1\n", "config: {path}, line 3: expected ',' or ']', but got '<stream end>'"),
            ("lora:\n  r: 3\nlora:\n  alpha: 3\n", "config: {path}, line 3: the key 'lora' is given twice"),
            ("- a\n", "config: {path}, line 1: must hold settings as 'key: value' lines, received a list"),
            (
                "a: \0\n",
                "config: {path} is not YAML: unacceptable character #x0000: special characters are not allowed",
            ),
            ("preset: [a]\n", "preset: must be a name, received ['a']"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_named(self, tmp_path: Path, content: str, sentence: str) -> None:
        path = written(tmp_path, content)
        assert faults(path=path, preset="smoke")[0].startswith(sentence.format(path=path))

    def test_a_file_that_is_not_there_may_be_a_preset_or_a_folder(self, tmp_path: Path) -> None:
        smoke = Path("smoke")
        assert faults(path=smoke) == (
            "config: smoke cannot be read: No such file or directory; did you mean --preset smoke?",
        )
        assert faults("rounds=-1", path=tmp_path) == (
            f"config: {tmp_path} is a folder; your own rows are given by --set data.path={tmp_path}",
            "rounds: must be at least 0, received -1",
        )
        latin = tmp_path / "latin.yaml"
        latin.write_bytes(b"model: \xe9\n")
        assert faults(path=latin) == (f"config: {latin} is not UTF-8",)

    def test_none_speaks_pydantic(self) -> None:
        wrong: list[Any] = [True, -1, 2.5, "x", "", [], {"a": 1}, float("nan"), [None], 10**30]
        seen = []
        for key in setting_names(Settings):
            for value in wrong:
                try:
                    resolve(overrides={key: value})
                except ConfigError as error:
                    seen += error.faults
        assert len(seen) > 200
        jargon = re.compile(r"Value error|pydantic|https?:|Input should|type=|valid (?:integer|number|string|tuple)")
        assert [fault for fault in seen if jargon.search(fault)] == []
