"""Whole runs of clients with unequal ranks, on the tiny random model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import EIGHT, own_rows, rounds_of, small_run, small_settings, tensors_of
from torch import Tensor

from fedlease.config.sections import LoraSettings
from fedlease.config.settings import resolve
from fedlease.core.folding import expert_alone
from fedlease.data.federation import Row
from fedlease.errors import ConfigError, ModelError
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.tables import client_table
from fedlease.reporting.run.verdict import conclude
from fedlease.runs.check import check_settings
from fedlease.runs.runner import resume
from fedlease.server.events import StepFinished
from fedlease.tasks.classification import collate
from fedlease.use.experts import experts_of
from fedlease.use.export import Exporter
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.mixed import MixedModel

CLIENTS = [f"planted-{task}-{i}" for task in range(4) for i in range(2)]
LOW, LOWEST = "planted-0-0", "planted-1-1"
RANKS = {"default": 4, LOW: 2, LOWEST: 1}
VARIANT: dict[str, Any] = {
    **EIGHT,
    "baselines": ["local"],
    "fedlease.signal": "BA",
    "fedlease.average": "product",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("ranks") / "r", **VARIANT, **{"lora.r": RANKS}).out


@pytest.fixture(scope="module")
def run(out: Path) -> OpenRun:
    return OpenRun(out)


def test_equal_ranks_in_a_mapping_are_the_plain_run_bit_for_bit(tmp_path: Path) -> None:
    plain = small_run(tmp_path / "plain", **VARIANT, **{"lora.r": 4}).out
    named = small_run(tmp_path / "named", **VARIANT, **{"lora.r": dict.fromkeys(CLIENTS, 4)}).out
    for folder in (".", "baselines/local"):
        assert tensors_of(named / folder) == tensors_of(plain / folder)


def test_every_client_has_its_own_rank_and_one_scale(run: OpenRun, out: Path) -> None:
    local = OpenRun(out, "local")
    for opened in (run, local):
        specs = {client: opened.model(client).spec for client in CLIENTS}
        assert {client: spec.r for client, spec in specs.items()} == {**dict.fromkeys(CLIENTS, 4), LOW: 2, LOWEST: 1}
        assert {spec.alpha / spec.r for spec in specs.values()} == {run.settings.lora.alpha / 4}


def test_a_client_uploads_as_many_bytes_as_its_own_rank_has(out: Path) -> None:
    # Four modules of 32 x 32 in four bytes: 4 x (32 + 32) x 4 = 1024 bytes per rank, and 4 x (2M - 1) x 32 x 4 for a
    # router. Ranks: 6 x 4 + 2 + 1 = 27. One warm-up and two rounds.
    summary = json.loads((out / "summary.json").read_text())
    experts = summary["num_experts"]
    assert experts > 1
    router = 4 * (2 * experts - 1) * 32 * 4
    assert summary["bytes_up"] == 3 * 27 * 1024 + 2 * 8 * router
    # Down: every client gets all experts at its own rank.
    assert summary["bytes_down"] == 27 * 1024 + 2 * (27 * 1024 * experts + 8 * router)
    local = json.loads((out / "baselines" / "local" / "summary.json").read_text())
    assert local["bytes_up"] == 0


def test_the_report_shows_the_rank_of_every_client(out: Path) -> None:
    run = read_run(out)
    table = client_table(run, conclude(run))
    column = table.header.index("rank")
    assert {row[0].text: row[column].value for row in table.rows}[LOW] == 2
    assert all(len(row) == len(table.header) for row in (*table.rows, *table.foot))
    assert "LoRA of rank 1 to 4, by client, alpha" in (out / "report.html").read_text()


def test_an_estimate_counts_what_the_run_then_uploads() -> None:
    one = {**VARIANT, "lora.r": RANKS, "fedlease.num_experts": 1}
    found = {e.method: e for e in check_settings(small_settings(**one)).estimates}
    assert found["fedlease"].bytes_up == 3 * 27 * 1024


def test_methods_of_one_run_share_the_first_steps_of_every_rank(out: Path) -> None:
    first = next(record for record in rounds_of(out / "baselines" / "local") if record["phase"] == "warmup")
    begun = next(record for record in rounds_of(out) if record["phase"] == "warmup")
    assert {c: e["loss"] for c, e in first["clients"].items()} == {c: e["loss"] for c, e in begun["clients"].items()}
    assert first["seconds"]["train"] <= begun["seconds"]["train"]


def test_a_stopped_run_goes_on_to_the_same_bits(out: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: object) -> None:
        if isinstance(event, StepFinished) and event.record["step"] == 2:
            raise Stop

    with pytest.raises(Stop):
        small_run(tmp_path / "r", [stop], **VARIANT, **{"lora.r": RANKS})
    resume(tmp_path / "r")
    for folder in (".", "baselines/local"):
        assert tensors_of(tmp_path / "r" / folder) == tensors_of(out / folder)


def test_exports_have_the_clients_rank_and_experts_the_largest(run: OpenRun, tmp_path: Path) -> None:
    exporter = Exporter(run)
    exporter.client(LOW, tmp_path / "own", mixture="own")
    assert json.loads((tmp_path / "own" / "adapter_config.json").read_text())["r"] == 2
    exporter.client(LOW, tmp_path / "folded")
    config = json.loads((tmp_path / "folded" / "adapter_config.json").read_text())
    assert config["r"] == 2 * run.model(LOW).spec.num_experts
    assert config["lora_alpha"] / config["r"] == run.settings.lora.alpha / 4
    expert = run.expert_of(LOW)
    assert expert is not None
    exporter.expert(expert, tmp_path / "expert")
    assert json.loads((tmp_path / "expert" / "adapter_config.json").read_text())["r"] == 4
    assert LOW in experts_of(run)[expert]


def batch(run: OpenRun, texts: list[str]) -> dict[str, Tensor]:
    return collate(run.encode([Row(text, None, 0) for text in texts]), range(len(texts)), run.device)[0]


def test_rows_of_unequal_ranks_are_served_in_one_batch(run: OpenRun) -> None:
    texts, clients = ["zib", "kulo mab nee", "zib zib"], [LOW, LOWEST, "planted-2-0"]
    together = MixedModel.of_run(run).logits(batch(run, texts), clients)
    for text, client, found in zip(texts, clients, together, strict=True):
        run.load(client)
        run.resident.model.eval()
        with torch.inference_mode():
            alone = run.resident.logits(batch(run, [text]))[0].float()
        assert torch.allclose(found, alone, atol=1e-5)


def test_a_newcomer_has_the_rank_that_the_run_names_for_it(tmp_path: Path) -> None:
    rows = own_rows(tmp_path / "rows")
    late = own_rows(tmp_path / "late", ("five",))
    changes = {
        **VARIANT,
        "baselines": [],
        "data.source": "folder",
        "data.path": str(rows),
        "data.train_rows": None,
        "data.test_rows": None,
    }
    made = small_run(tmp_path / "r", **changes, **{"lora.r": {"one": 4, "default": 2}}).out
    onboard(OpenRun(made), "five", late / "five", epochs=1)
    assert OpenRun(made).model("five").spec.r == 2
    assert expert_alone(OpenRun(made).model("five"), 0).spec.r == 2
    named = {"one": 4, "two": 2, "three": 2, "four": 2}
    made = small_run(tmp_path / "named", **changes, **{"lora.r": named}).out
    with pytest.raises(
        ConfigError, match=r"lora\.r: names no rank for client 'five'; add it, or default for all others"
    ):
        onboard(OpenRun(made), "five", late / "five")


FAULTS: list[tuple[dict[str, Any], type[Exception], list[str]]] = [
    (
        {"lora.r": {LOW: 2, "default": 4, "planted-0-9": 4}},
        ConfigError,
        ["lora.r: no client 'planted-0-9'; did you mean 'planted-0-1'?"],
    ),
    (
        {"lora.r": {client: 2 + (client == LOW) for client in CLIENTS if client != LOWEST}},
        ConfigError,
        [f"lora.r: names no rank for client {LOWEST!r}; add it, or default for all others"],
    ),
    (
        {"lora.r": {LOW: 33, LOWEST: 40, "default": 4}},
        ModelError,
        [
            f"lora.r.{client}: must be at most 32, the smaller side of bert.encoder.layer.0.attention.self.query, "
            f"received {r}"
            for client, r in ((LOW, 33), (LOWEST, 40))
        ],
    ),
]


@pytest.mark.parametrize(("changes", "kind", "faults"), FAULTS)
def test_faults_name_the_client(changes: Any, kind: Any, faults: list[str], tmp_path: Path) -> None:
    with pytest.raises(kind) as caught:
        small_run(tmp_path / "r", **VARIANT, **changes)
    assert len(caught.value.faults) == len(faults)
    assert all(map(str.startswith, caught.value.faults, faults))
    assert not (tmp_path / "r").exists()


UNEQUAL = {"lora.r": {"a": 2, "default": 4}}


def test_fedlease_plus_needs_no_other_settings(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"method": "fedlease-plus", **EIGHT, "data.train_rows": 24, "lora.r": RANKS}
    made = OpenRun(small_run(tmp_path / "r", **changes).out)
    assert [made.model(client).spec.r for client in CLIENTS] == [2, 4, 4, 1, 4, 4, 4, 4]
    with pytest.raises(ConfigError, match=r"fedlease_plus\.average: must be product .*, received 'factors'"):
        small_settings(**changes, **{"fedlease_plus.average": "factors"})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"fedlease.average": "product"},
            "fedlease.signal: must be BA if lora.r differs between clients, since only products B A can then be "
            "compared and averaged",
        ),
        (
            {"fedlease.signal": "BA", "fedlease.average": "trimmed"},
            "fedlease.average: must be product if lora.r differs between clients, since only products B A can then "
            "be compared and averaged, received 'trimmed'",
        ),
        (
            {"method": "fedit"},
            "lora.r: fedit averages A and B, which must have one rank; unequal ranks are allowed for fedlease, "
            "fedlease-plus, fedrora, flexlora, flora, hetlora, local; received the ranks 2, 4",
        ),
    ],
)
def test_methods_that_need_one_rank_say_what_would_have_to_be_set(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(preset="smoke", overrides={**UNEQUAL, **changes})
    assert caught.value.faults == (fault,)


def test_baselines_of_a_preset_that_need_one_rank_give_way() -> None:
    able = {**UNEQUAL, "fedlease.signal": "BA", "fedlease.average": "product"}
    assert resolve(preset="smoke").baselines == ("fedit", "local")
    assert resolve(preset="smoke", overrides=able).baselines == ("local",)


@pytest.mark.parametrize("ranks", [{"default": 8}, {"a": 8, "b": 8}])
def test_one_rank_for_all_is_no_mapping_to_any_method(ranks: dict[str, int]) -> None:
    lora = resolve(preset="smoke", overrides={"lora.r": ranks, "method": "ifca"}).lora
    assert (lora.largest, lora.ranks, lora.of("a"), lora.words) == (8, {}, 8, "8")
    assert LoraSettings(last_layers=1).words == "8 in the last layer"
    assert LoraSettings(r=4, last_layers=2).words == "4 in the last 2 layers"


def test_a_client_whose_name_is_a_number_is_found() -> None:
    settings = resolve(preset="smoke", overrides=["method=local", "lora.r={7: 2, default: 4}"])
    assert (settings.lora.of("7"), settings.lora.of("8"), settings.lora.words) == (2, 4, "2 to 4, by client")
