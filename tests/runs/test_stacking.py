"""``clients_per_step: auto``: as many clients in one step as an accelerator has memory for."""

from dataclasses import replace

import pytest
import torch
from small import small_settings

from fedlease.client.stacked_layers import RowsNotFirstError
from fedlease.errors import ConfigError
from fedlease.runs import stacking
from fedlease.runs.open import Prepared, prepare


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """A federation of the tiny model."""
    return prepare(small_settings(clients_per_step="auto", deterministic=False))


def resolved(prepared: Prepared, asked: int | str = "auto") -> object:
    """What is resolved to as if the device were an NVIDIA GPU."""
    settings = prepared.loaded.settings.model_copy(update={"clients_per_step": asked})
    loaded = replace(prepared.loaded, settings=settings, device=torch.device("cuda"))
    vars(loaded)["resident"] = prepared.loaded.resident
    prepared = replace(prepared, loaded=loaded)
    return stacking.with_clients_per_step(prepared).loaded.settings.clients_per_step


@pytest.mark.parametrize(
    ("free", "clients"),
    [
        # 80 % of the free bytes, 100 to each client: 800 / 100.
        (1000, 8),
        (999, 7),
        # At least one, though no two have room, and never more than 64.
        (150, 1),
        (0, 1),
        (10**9, 64),
    ],
)
def test_as_many_clients_as_four_fifths_of_the_free_memory_holds(
    free: int, clients: int, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacking, "_bytes_per_client", lambda _: 100)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10**12))
    assert resolved(prepared) == clients


def test_auto_is_one_where_rows_do_not_come_first(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(_: Prepared) -> int:
        raise RowsNotFirstError("model: a module receives others")

    monkeypatch.setattr(stacking, "_bytes_per_client", tried)
    assert resolved(prepared) == 1
    said = "cannot be computed in one step: a module receives others; must be 1 or auto, received 4"
    with pytest.raises(ConfigError, match=said):
        resolved(prepared, 4)


def test_two_clients_are_tried_on_a_batch_of_the_longest_rows(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step takes grows with rows and tokens: those of the trial are the most that a batch can have."""
    tried = list[list[list[int]]]()
    monkeypatch.setattr(stacking.StackedTrainer, "train", lambda _, jobs: tried.append([j.rows.lengths for j in jobs]))
    assert stacking._bytes_per_client(prepared) == 0, "nothing to measure on a processor"
    longest = sorted((length for c in prepared.clients.values() for length in c.train.lengths), reverse=True)
    (lengths,) = tried
    assert len(lengths) == 2 and lengths[0] == lengths[1]
    assert len(lengths[0]) == prepared.loaded.settings.train.batch_size and max(lengths[0]) == longest[0]


@pytest.mark.parametrize("wrong", [0, -1, "many", 1.5])
def test_a_number_below_one_or_another_word_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match=f"clients_per_step.*{wrong}"):
        small_settings(clients_per_step=wrong)
