"""Comparisons on the tiny model: cells that are not run twice, terms that must be the same, tables by hand."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import flip, save_checkpoint
from small import own_rows, rounds_of, small_settings

from fedlease.client.training import Trainer
from fedlease.errors import (
    ConfigError,
    DataError,
    ModelError,
    RunFailedError,
    RunFolderError,
    TooFewUpdatesError,
    UpdateRefusedError,
)
from fedlease.experiments import compare as compare_module
from fedlease.experiments.cells import Cell, plan
from fedlease.experiments.compare import compare, tune
from fedlease.experiments.experiment import Variant, variants_of
from fedlease.experiments.surviving import failed_words
from fedlease.methods.registry import known_methods
from fedlease.reporting.comparison.page import compare_page, markdown
from fedlease.runs.runner import run_settings

FAST = {"rounds": 1, "baselines": []}


def settings(**changes: Any) -> Any:
    return small_settings(**{**FAST, **changes})


class Heard:
    """Which cells were begun and which ended."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.read: list[str] = []

    def __call__(self, cell: Cell, summary: Any) -> None:
        if summary is None:
            (self.read if cell.finished else self.ran).append(f"{cell.variant.name}-{cell.seed}")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("compare") / "c"
    return out, compare(settings(), variants_of(["fedlease", "local", "fedit"]), [0, 1], out)


def test_every_cell_is_a_run_folder_with_the_result_of_a_run(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, content = done
    alone = run_settings(settings(method="local", seed=1), tmp_path / "alone")["local"].content
    cell = json.loads((out / "local" / "seed-1" / "summary.json").read_text())
    for key in ("mean", "per_client", "per_task", "bytes_up", "trainable_parameters"):
        assert cell[key] == alone[key]
    assert content["variants"]["local"]["mean"]["values"][1] == alone["mean"]


def test_the_page_is_written_and_its_curves_are_over_passes(done: tuple[Path, dict[str, Any]]) -> None:
    out, content = done
    assert (out / "compare.html").read_text(encoding="utf-8") == compare_page(content)
    # T = 2: one pass of warm-up and one round, or two rounds. Each point is scored before its pass.
    for name in ("fedlease", "local", "fedit"):
        row = content["variants"][name]
        assert [[point["passes"] for point in seed] for seed in row["points"]] == [[0, 1, 2], [0, 1, 2]]
        lines = [rounds_of(out / name / f"seed-{seed}") for seed in (0, 1)]
        ends = row["mean"]["values"]
        scored = [[*(line["mean_score"] for line in own), end] for own, end in zip(lines, ends, strict=True)]
        assert [[point["mean"] for point in seed] for seed in row["points"]] == scored
        assert {point["clients"] for seed in row["points"] for point in seed} == {4} == {content["num_clients"]}


def test_a_warm_up_is_as_many_passes_as_it_has_epochs(tmp_path: Path) -> None:
    variants = [Variant("plain", "fedit"), Variant("warm", "fedlease", {"warmup.epochs": 2, "rounds": 0})]
    content = compare(settings(), variants, [0], tmp_path / "c")
    passes = {name: [point["passes"] for point in row["points"][0]] for name, row in content["variants"].items()}
    assert passes == {"plain": [0, 1, 2], "warm": [0, 2]}


def test_a_warm_up_that_cells_share_is_run_once(done: tuple[Path, dict[str, Any]]) -> None:
    out, _ = done
    # Eight clients warm up once per seed, for fedlease; local takes that over. Round 1 of fedit is other work, and so
    # are first rounds after the warm-up.
    first, again = (rounds_of(out / name / "seed-0")[0] for name in ("fedlease", "local"))
    for client, row in again["clients"].items():
        assert row["loss"] == first["clients"][client]["loss"]
        assert row["seconds"] == first["clients"][client]["seconds"], "the time it took when it was done"
    assert list((out / "shared").glob("*.safetensors"))


def test_finished_cells_are_not_run_again_and_seeds_can_be_added(
    done: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, content = done
    heard = Heard()
    again = compare(settings(), variants_of(["fedlease", "local", "fedit"]), [0, 1], out, on_cell=heard)
    assert heard.ran == [] and len(heard.read) == 6
    assert again == content
    assert json.loads((out / "compare.json").read_text()) == json.loads(json.dumps(content))


def test_an_interrupted_cell_goes_on(tmp_path: Path) -> None:
    from fedlease.server.events import StepFinished

    def stop(event: Any) -> None:
        if isinstance(event, StepFinished) and event.method == "local":
            raise KeyboardInterrupt

    variants = variants_of(["fedit", "local"])
    with pytest.raises(KeyboardInterrupt):
        compare(settings(), variants, [0], tmp_path / "a", listeners=[stop])
    heard = Heard()
    content = compare(settings(), variants, [0], tmp_path / "a", on_cell=heard)
    assert (heard.read, heard.ran) == (["fedit-0"], ["local-0"])
    whole = compare(settings(), variants, [0], tmp_path / "b")
    for name in ("fedit", "local"):
        assert content["variants"][name]["mean"] == whole["variants"][name]["mean"]
    assert content["differences"] == whole["differences"]


def test_the_tables_say_what_the_cells_hold(done: tuple[Path, dict[str, Any]]) -> None:
    out, content = done
    means = {
        name: [json.loads((out / name / f"seed-{s}" / "summary.json").read_text())["mean"] for s in (0, 1)]
        for name in ("fedlease", "local", "fedit")
    }
    for name, values in means.items():
        row = content["variants"][name]
        assert row["mean"]["mean"] == pytest.approx(sum(values) / 2)
        assert row["mean"]["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        if name != "fedlease":
            gap = (sum(means["fedlease"]) - sum(values)) / 2
            assert content["differences"][name]["mean"] == pytest.approx(gap)
        assert row["points"][1][-1]["mean"] == pytest.approx(values[1])
    best = max(("local", "fedit"), key=lambda name: sum(means[name]))
    assert content["best_other"] == best
    text = (out / "compare.md").read_text()
    assert text == markdown(content) and "| fedlease |" in text
    lines = (out / "compare.csv").read_text().splitlines()
    assert lines[0] == "variant,method,seed,task,accuracy"
    assert f"local,local,1,mean over clients,{means['local'][1]}" in lines


def test_ablations_are_variants_of_one_method(tmp_path: Path) -> None:
    variants = [
        Variant("full", "fedlease"),
        Variant("own-expert", "fedlease", {"fedlease.routing": "own"}),
        Variant("rank-4x", "fedit", {"lora.r": 8}),
    ]
    content = compare(settings(lora__r=2), variants, [0], tmp_path / "c")
    assert list(content["variants"]) == ["full", "own-expert", "rank-4x"]
    rows = content["variants"]
    assert rows["rank-4x"]["trainable_parameters"] == 4 * rows["own-expert"]["trainable_parameters"]
    assert rows["full"]["trainable_parameters"] > rows["own-expert"]["trainable_parameters"]


class TestRefusals:
    def refused(self, said: str, **changes: Any) -> None:
        arguments: dict[str, Any] = {"variants": variants_of(["fedlease", "local"]), "seeds": [0], **changes}
        with pytest.raises(ConfigError, match=said):
            plan(settings(), arguments["variants"], arguments["seeds"], Path("nowhere"))

    def test_unknown_and_repeated_methods(self) -> None:
        with pytest.raises(ConfigError, match="unknown method 'fedlese'; did you mean 'fedlease'"):
            variants_of(["fedlese"])
        with pytest.raises(ConfigError, match="'local' is named twice"):
            variants_of(["local", "fedit", "local"])
        every = [variant.name for variant in variants_of(["all"])]
        assert sorted(every) == known_methods() and (every[0], every[-1]) == ("fedlease", "centralised")
        with pytest.raises(ConfigError, match="at least one is needed"):
            variants_of([])

    def test_seeds(self) -> None:
        self.refused("seeds: 1 is given twice", seeds=[1, 0, 1])
        self.refused("seeds: at least one", seeds=[])
        self.refused("seeds: must be at least 0, received -1", seeds=[-1])

    def test_names_that_cannot_be_folders(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"variants: a name must not start with a dot, received '../x'"):
            compare(settings(), [Variant("../x", "local")], [0], tmp_path / "c")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"rounds": 3}, r"the budget T .* differs, 4 and 2"),
            ({"head": "frozen"}, "head differs, frozen and local"),
            ({"data.train_rows": 5}, "data differs"),
            ({"train.batch_size": 2}, r"train\.batch_size differs, 2 and 8"),
        ],
    )
    def test_other_terms(self, changes: dict[str, Any], said: str) -> None:
        variants = [Variant("a", "fedlease"), Variant("b", "local", changes)]
        self.refused(f"b and a cannot be compared: {said}", variants=variants)

    def test_a_budget_that_is_spent_otherwise_is_the_same_budget(self) -> None:
        # E = 1 and one round; or no round and two warm-up epochs.
        variants = [Variant("a", "fedlease"), Variant("b", "fedlease", {"warmup.epochs": 2, "rounds": 0})]
        assert len(plan(settings(), variants, [0], Path("nowhere"))) == 2

    def test_a_folder_with_other_settings(self, tmp_path: Path) -> None:
        compare(settings(), variants_of(["local"]), [0], tmp_path / "c")
        with pytest.raises(ConfigError, match=r"holds a run with other settings \(train\)"):
            compare(settings(train__lr=0.5), variants_of(["local"]), [0], tmp_path / "c")

    def test_cells_on_other_rows(self, tmp_path: Path) -> None:
        own = own_rows(tmp_path / "rows")
        common = settings(data__source="folder", data__path=str(own))
        compare(common, variants_of(["local"]), [0], tmp_path / "c")
        file = own / "two" / "test.jsonl"
        file.write_text(file.read_text().replace("two says", "two said"))
        with pytest.raises(RunFolderError, match=r"local/seed-0: the rows have changed since this run began"):
            compare(common, variants_of(["local", "fedit"]), [0], tmp_path / "c")
        assert not (tmp_path / "c" / "fedit").exists(), "nothing was trained"

    def test_cells_on_another_base(self, tmp_path: Path) -> None:
        base = save_checkpoint(tmp_path / "m", "roberta")
        common = settings(model=str(base), rounds=0)
        compare(common, variants_of(["local"]), [0], tmp_path / "c")
        flip(base / "model.safetensors")
        with pytest.raises(RunFolderError, match=r"local/seed-0: the base model in .* is no longer the one"):
            compare(common, variants_of(["local", "fedit"]), [0], tmp_path / "c")
        assert not (tmp_path / "c" / "fedit").exists(), "nothing was trained"


class TestWhatFails:
    """A method that fails, at a time of the test's choosing, beside two that do not."""

    @pytest.fixture
    def fails(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
        """Method -> the error of each of its runs, to be filled by the test."""
        found: dict[str, Exception] = {}
        honest = compare_module.run_cell

        def run_cell(cell: Cell, *more: Any) -> Any:
            if cell.variant.method in found:
                raise found[cell.variant.method]
            return honest(cell, *more)

        monkeypatch.setattr(compare_module, "run_cell", run_cell)
        return found

    def test_the_others_are_compared_as_without_it_and_the_next_call_tries_again(
        self, done: tuple[Path, dict[str, Any]], fails: dict[str, Exception], tmp_path: Path
    ) -> None:
        out = shutil.copytree(done[0], tmp_path / "c")
        shutil.rmtree(out / "fedit")
        fails["fedit"] = TooFewUpdatesError("round 1: 3 of 4 updates\nwere refused")
        heard = Heard()
        variants = variants_of(["fedlease", "local", "fedit"])
        content = compare(settings(), variants, [0, 1], out, on_cell=heard)
        assert heard.ran == ["fedit-0"], "its second seed is not begun"
        failure = {
            "method": "fedit",
            "seed": 0,
            "reason": "round 1: 3 of 4 updates were refused",
            "kind": "one for all",
        }
        assert content["failed"] == {"fedit": failure}
        assert failed_words(content) == "1 of 3 methods failed: fedit (round 1: 3 of 4 updates were refused)"
        for key in ("variants", "differences"):
            assert content[key] == {name: row for name, row in done[1][key].items() if name != "fedit"}
        assert json.loads((out / "compare.json").read_text())["failed"] == content["failed"]
        assert "round 1: 3 of 4 updates were refused" in (out / "compare.html").read_text()
        fails.clear()
        shutil.copytree(done[0] / "fedit", out / "fedit")
        assert compare(settings(), variants, [0, 1], out) == done[1] and not failed_words(done[1])

    def test_an_error_of_the_code_is_named_by_its_type_and_leaves_its_lines(
        self, done: tuple[Path, dict[str, Any]], fails: dict[str, Exception], tmp_path: Path
    ) -> None:
        out = shutil.copytree(done[0], tmp_path / "c")
        fails["fedlease"] = KeyError("B")
        content = compare(settings(), variants_of(["fedlease", "local", "fedit"]), [0, 1], out)
        assert content["failed"]["fedlease"]["reason"] == "KeyError: 'B'"
        assert content["first"] == "local", "the first of those that are left is compared with the others"
        assert list(content["differences"]) == ["fedit"]
        assert "Traceback" in (out / "fedlease" / "failure.txt").read_text()
        fails.clear()
        compare(settings(), variants_of(["fedlease", "local", "fedit"]), [0, 1], out)
        assert not (out / "fedlease" / "failure.txt").exists()

    def test_a_full_disk_stops_them_all_and_memory_that_one_lacks_does_not(
        self, done: tuple[Path, dict[str, Any]], fails: dict[str, Exception], tmp_path: Path
    ) -> None:
        out = shutil.copytree(done[0], tmp_path / "c")
        fails["fedit"] = OSError(errno.ENOSPC, "no space")
        with pytest.raises(RunFailedError, match=r"the comparison in .* stopped: the disk is full"):
            compare(settings(), variants_of(["local", "fedit"]), [0, 1], out)
        fails["fedit"] = MemoryError()
        content = compare(settings(), variants_of(["local", "fedit"]), [0, 1], out)
        assert list(content["failed"]) == ["fedit"]

    def test_where_all_fail_there_is_nothing_to_compare(self, fails: dict[str, Exception], tmp_path: Path) -> None:
        fails.update(local=ModelError("first"), fedit=ModelError("model: not found"))
        with pytest.raises(ModelError, match="model: not found"):
            compare(settings(), variants_of(["local", "fedit"]), [0], tmp_path / "c")
        assert not (tmp_path / "c" / "compare.json").exists()

    def test_of_all_methods_those_that_cannot_have_the_settings_are_named_and_of_chosen_ones_refused(
        self, tmp_path: Path
    ) -> None:
        common = settings(method="local", lora__r={"default": 4, "planted-0-0": 2})
        variants = variants_of(["local", "fedit"])
        with pytest.raises(ConfigError, match=r"lora\.r: fedit averages"):
            compare(common, variants, [0], tmp_path / "c")
        content = compare(common, variants, [0], tmp_path / "c", every=True)
        assert (
            list(content["variants"]) == ["local"] and "lora.r: fedit averages" in content["failed"]["fedit"]["reason"]
        )
        assert content["failed"]["fedit"]["seed"] is None


class TestTuning:
    def test_a_rate_at_which_training_diverges_loses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        honest = Trainer.train

        def step(self: Trainer, client: str, *more: Any) -> Any:
            if self.optimiser.lr == 0.5:
                raise UpdateRefusedError(client, "loss is nan in epoch 1, step 1")
            return honest(self, client, *more)

        monkeypatch.setattr(Trainer, "train", step)
        common = settings(data__valid_fraction=0.4)
        (variant,) = variants_of(["local"])
        tuned, scores = tune(common, variant, 0, tmp_path / "c", (1e-3, 0.5))
        assert tuned.changes == {"train.lr": 1e-3}
        assert scores["0.5"] is None and scores["0.001"] is not None
        with pytest.raises(
            RunFailedError, match=r"local cannot be trained at any of the learning rates\. 0\.5: local, "
        ):
            tune(common, variant, 0, tmp_path / "c", (0.5,))

    def test_the_rate_with_the_best_validation_score_is_taken(self, tmp_path: Path) -> None:
        common = settings(data__valid_fraction=0.4)
        (variant,) = variants_of(["local"])
        tuned, scores = tune(common, variant, 0, tmp_path / "c", (1e-6, 1e-2))
        assert set(scores) == {"1e-06", "0.01"}
        best = max((1e-6, 1e-2), key=lambda rate: scores[f"{rate:g}"] or 0)
        assert tuned.changes == {"train.lr": best} and tuned.name == "local"
        # Scored on the validation rows: 40 % of 12 train rows, and not the 8 test rows.
        folder = tmp_path / "c" / "tuning" / "local" / "lr-0.01" / "seed-0"
        clients = json.loads((folder / "clients.json").read_text())
        assert {entry["test_rows"] for entry in clients.values()} != {8}

    def test_the_comparison_uses_each_variants_own(self, tmp_path: Path) -> None:
        common = settings(data__valid_fraction=0.4)
        content = compare(common, variants_of(["fedit", "local"]), [0], tmp_path / "c", rates=(1e-4, 1e-2))
        for name in ("fedit", "local"):
            assert content["variants"][name]["changes"]["train.lr"] in (1e-4, 1e-2)
            assert set(content["learning_rates"][name]) == {"0.0001", "0.01"}
        clients = json.loads((tmp_path / "c" / "local" / "seed-0" / "clients.json").read_text())
        assert {entry["test_rows"] for entry in clients.values()} == {8}, "the cells themselves read test rows"

    def test_it_needs_validation_rows(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"data\.valid_fraction: must be above 0 where a learning rate is chosen"):
            compare(settings(), variants_of(["local"]), [0], tmp_path / "c", rates=(1e-3,))
        with pytest.raises(DataError, match=r"data\.score_rows: 'valid' needs validation rows"):
            run_settings(settings(data__score_rows="valid"), tmp_path / "r")
