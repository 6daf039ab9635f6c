"""The list of settings: complete, searchable, and in words."""

import pytest

from fedlease.config.explained import explained, explained_settings, find
from fedlease.config.faults import setting_names
from fedlease.config.settings import Settings, resolve
from fedlease.errors import ConfigError
from fedlease.methods.registry import OTHER_NAMES, known_methods

ROWS = explained_settings()


def keys(word: str) -> list[str]:
    return [row.key for row in find(ROWS, word)]


def test_every_setting_is_there_once_with_a_meaning() -> None:
    own = list(explained())
    assert sorted(row.key for row in own) == sorted(setting_names(Settings))
    assert [row.key for row in ROWS if not row.meaning or not row.values or not row.default] == []


def test_defaults_and_values_are_as_they_are_written() -> None:
    rows = {row.key: row for row in ROWS}
    assert (rows["threads"].default, rows["threads"].values) == ("auto", "integer >= 1 or `auto`")
    assert (rows["data.path"].default, rows["baselines"].default) == ("null", "[]")
    assert (rows["train.lr"].values, rows["train.lr"].group) == ("number > 0 and < 1", "train")


def test_a_name_is_found_before_what_only_has_it_in_it_and_before_meanings() -> None:
    assert keys("lr") == ["train.lr", "server_step.lr", "train.lr_schedule"]
    assert keys("Batch-Size")[:2] == keys("batch_size")[:2] == ["generation.batch_size", "train.batch_size"]
    assert keys("lora_alpha") == ["lora.alpha"]
    # Only its meaning says so: "Learning rate."
    assert "train.lr" in keys("learning_rate")


def test_a_word_that_is_nowhere_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        find(ROWS, "bacth_size")
    assert caught.value.faults[0].startswith(
        "settings: no setting has 'bacth_size' in its name or meaning; did you mean"
    )
    with pytest.raises(ConfigError, match="'zzz' in its name or meaning; fedlease settings lists all"):
        find(ROWS, "zzz")


@pytest.mark.parametrize(("name", "here"), [*OTHER_NAMES.items(), ("FedAvg", "fedit"), ("FFA_LoRA", "ffa-lora")])
def test_a_method_that_goes_by_another_name_elsewhere_is_named(name: str, here: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(preset="smoke", overrides={"method": name, "baselines": []})
    assert caught.value.faults == (f"method: unknown method {name!r}; it is called {here!r} here",)


def test_other_names_are_none_of_ours() -> None:
    assert not set(OTHER_NAMES) & set(known_methods())
    assert set(OTHER_NAMES.values()) <= set(known_methods())
