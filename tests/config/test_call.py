"""What ``fedlease.run`` is given: settings in any of their forms, and one sentence for everything else."""

from pathlib import Path
from typing import Any

import pytest

import fedlease
from fedlease.config.call import settings_of_call
from fedlease.config.settings import resolve
from fedlease.errors import ConfigError, DataError


class DataFrame:
    """Stands for a table of pandas."""


def test_every_form_gives_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: smoke\nrounds: 1\n")
    expected = resolve(preset="smoke", overrides=["rounds=1", "lora.r=2"])
    more = {"lora.r": 2}
    assert settings_of_call("smoke", {"rounds": 1, **more}) == expected
    assert settings_of_call({"preset": "smoke", "rounds": 1}, more) == expected
    assert settings_of_call({"preset": "smoke", "rounds": 1, "lora": {"r": 9}}, {"lora": {"r": 2}}) == expected
    assert settings_of_call(resolve(file), more) == settings_of_call(file, more) == expected
    assert settings_of_call(str(file), more) == expected
    assert settings_of_call(None, {}) == resolve()


def test_a_file_of_settings_may_have_any_name_and_a_preset_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("preset: smoke\nrounds: 1\n")
    (tmp_path / "smoke").mkdir()
    assert settings_of_call("mine", {}).rounds == 1
    assert settings_of_call("smoke", {}) == resolve(preset="smoke")


@pytest.mark.parametrize("given", [DataFrame(), [{"text": "a", "label": "b"}], 5, 2.5, b"smoke", {"a"}, object, True])
def test_what_holds_no_settings_is_one_sentence_that_says_what_to_give(given: Any) -> None:
    with pytest.raises(ConfigError) as error:
        fedlease.run(given)
    assert error.value.faults == (
        "config: must be the name of a preset, a YAML file, settings by their dotted names, or fedlease.Settings, "
        f"received a {type(given).__name__}; rows are given as data, as in fedlease.run(data=ROWS) or "
        "fedlease.run(data='my-federation')",
    )


def test_tables_in_the_place_of_settings_are_named(tmp_path: Path) -> None:
    said = "config: settings are numbers, texts and lists of them, but train holds a DataFrame; test holds a set; rows"
    with pytest.raises(ConfigError) as error:
        fedlease.run({"train": DataFrame(), "test": {"a"}})  # as a DatasetDict is
    assert str(error.value).startswith(said)
    with pytest.raises(
        DataError, match="data: rows must be a list of dicts, a DataFrame or a Dataset, got a DataFrame"
    ):
        fedlease.run("smoke", data=DataFrame())  # not that of pandas
    with pytest.raises(ConfigError, match=r"but train\.lr holds a DataFrame; rows are given as data"):
        fedlease.run("smoke", train__lr=DataFrame())
    with pytest.raises(ConfigError, match="clinic: no such setting"):
        fedlease.run({"clinic": {"train": [{"text": "a", "label": "b"}]}})


def test_rows_in_the_place_of_a_file_of_settings_are_told_where_they_belong(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n")
    for given in (rows, str(rows)):
        with pytest.raises(ConfigError) as error:
            fedlease.run(given)
        assert str(error.value) == (
            f"config: {rows} holds rows, not settings; your own rows are given by --set data.path={rows}"
        )
    with pytest.raises(ConfigError, match=r"is a folder; your own rows are given by --set data\.path="):
        fedlease.run(str(tmp_path))
    with pytest.raises(ConfigError, match="preset: unknown preset 'smok'; did you mean 'smoke'"):
        fedlease.run("smok")
    with pytest.raises(ConfigError, match="cannot be read: embedded null"):
        fedlease.run("a\0b.yaml")
