"""``clients_per_step: auto``: as many clients in one step as a GPU has memory for, or as a processor gains from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_run, small_settings

from fedlease.client.stacked_layers import RowsNotFirstError
from fedlease.errors import ConfigError
from fedlease.runs import stacking
from fedlease.runs.open import Prepared, prepare
from fedlease.storage.run_folder import read_settings


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """A federation of the tiny model."""
    return prepare(small_settings(clients_per_step="auto", deterministic=False))


def resolved(prepared: Prepared, asked: int | str = "auto") -> object:
    """What is resolved to as if the device were an NVIDIA GPU."""
    return of_settings(prepared, "cuda", clients_per_step=asked)[0]


def of_settings(prepared: Prepared, device: str, **changes: Any) -> tuple[object, str]:
    """What is resolved to under other settings as if this were the device, and the reason that is told."""
    settings = prepared.loaded.settings.model_copy(update=changes)
    loaded = replace(prepared.loaded, settings=settings, device=torch.device(device))
    vars(loaded)["resident"] = prepared.loaded.resident
    found = stacking.with_clients_per_step(replace(prepared, loaded=loaded)).loaded
    assert found.resident is prepared.loaded.resident, "heads are not built anew"
    return found.settings.clients_per_step, found.chosen.get("clients_per_step", "")


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


@pytest.mark.parametrize(
    ("batches", "less", "clients"),
    # So many batches of a client, less so many tokens, are enough for a step; four clients at most.
    [(3, 0, 3), (3, 1, 2), (1, 0, 1), (1, 1, 1), (1000, 0, 4)],
)
def test_on_a_processor_short_batches_are_put_together_until_a_step_has_enough_tokens(
    batches: int, less: int, clients: int, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [length for client in prepared.clients.values() for length in client.train.lengths]
    # Four clients with 8 rows, all of them in a batch: a step each.
    tokens = round(sum(lengths) / 4)
    monkeypatch.setattr(stacking, "TOKENS", batches * tokens - less)
    found, told = of_settings(prepared, "cpu", dtype="bfloat16")
    assert (found, told.partition(",")[0]) == (clients, str(clients)) and f"batch has {tokens} tokens" in told
    assert of_settings(prepared, "cpu", threads=2)[0] == clients
    assert of_settings(prepared, "cpu", threads=2, clients_per_step=2) == (2, ""), "what is stated is not chosen"


def test_on_a_processor_auto_is_one_where_more_bring_nothing_or_alter_more_than_rounding(prepared: Prepared) -> None:
    settings = prepared.loaded.settings
    train, privacy = settings.train, settings.privacy
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("cpu", {"threads": 1}, "with float32 and one thread"),
        ("cpu", {"threads": 2, "train": train.model_copy(update={"base_dropout": True})}, "train.base_dropout"),
        ("cpu", {"threads": 2, "privacy": privacy.model_copy(update={"epsilon": 8.0})}, "privacy.epsilon"),
        ("mps", {"threads": 2}, "not known to be faster on mps"),
    ]
    for device, changes, reason in cases:
        found, told = of_settings(prepared, device, **changes)
        assert found == 1 and told.startswith("1, since ") and reason in told


def test_a_run_on_two_threads_says_how_many_clients_it_put_together(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", method="fedit", rounds=0, threads=2, data__train_rows=4, data__test_rows=2)
    assert read_settings(run.out).clients_per_step == 4


@pytest.mark.parametrize("wrong", [0, -1, "many", 1.5])
def test_a_number_below_one_or_another_word_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match=f"clients_per_step.*{wrong}"):
        small_settings(clients_per_step=wrong)
