"""The catalogue of experiments: published figures, plans at both scales, and tiny real runs on made-up rows."""

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from small import rounds_of

from fedlease.config.settings import resolve
from fedlease.data.sources.glue import TASKS
from fedlease.errors import ConfigError, DataError
from fedlease.experiments.catalogue import EXPERIMENTS, find, preset_of
from fedlease.experiments.cells import Cell
from fedlease.experiments.paper_numbers import EXPERTS, LABEL_SKEW, NLG_MAIN, NLU_MAIN
from fedlease.experiments.reproduce import Reproduction, planned, reproduce
from fedlease.experiments.reproduce_tables import markdown
from fedlease.methods.registry import known_methods
from fedlease.runs.building import build_method

ROOT = Path(__file__).resolve().parents[2]

TINY: dict[str, Any] = {
    "model": "tiny-random",
    "data.train_rows": 8,
    "data.test_rows": 10,
    "data.max_tokens": 24,
    "lora.r": 2,
    "rounds": 1,
    "train.batch_size": 8,
    "threads": 1,
    "device": "cpu",
    "min_silhouette": -1,
}


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred rows each of the four tasks."""
    folder = tmp_path_factory.mktemp("glue")
    for task in ("sst2", "qnli", "mrpc", "qqp"):
        spec = TASKS[task]
        rows = [
            {name: f"{task} {name} {n}" for name in (spec.text, spec.text_pair) if name} | {"label": n % 2}
            for n in range(100)
        ]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Heard:
    """Which cells were begun."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, cell: Cell, summary: Any) -> None:
        if summary is None and not cell.finished:
            self.ran.append(f"{cell.folder.parent.parent.name}/{cell.variant.name}")


def settings_of(ready: Reproduction, part: str = "", seed: int = 0) -> dict[str, Any]:
    """Variant -> resolved settings, of one part."""
    (found,) = (p for p in ready.scenarios if p.name == part)
    return {cell.variant.name: cell.settings for cell in found.cells if cell.seed == seed}


class TestPublishedFigures:
    def test_each_mean_is_the_mean_of_its_tasks(self) -> None:
        # FedIT: (93.33 + 85.43 + 76.35 + 73.82) / 4 = 82.2325; FedDPA 84.495, printed as 84.49.
        for name, row in NLU_MAIN.items():
            assert list(row.per_task) == ["sst2", "qnli", "mrpc", "qqp"], name
            assert row.mean == pytest.approx(fmean(row.per_task.values()), abs=0.0051), name

    def test_they_are_those_of_the_tables(self) -> None:
        # paper.md, "NLU table" and "Ablation"; the row of ours that is best, and the two of the ablation beside it.
        assert {name: row.mean for name, row in NLU_MAIN.items()} == {
            "fedlease": 87.76, "fedit": 82.23, "feddpa": 84.49, "fedsa-lora": 84.60, "ifca": 84.48,
        }  # fmt: skip
        assert NLU_MAIN["fedlease"].per_task == {"sst2": 93.33, "qnli": 87.22, "mrpc": 86.93, "qqp": 83.57}
        assert NLU_MAIN["ifca"].per_task["mrpc"] == 78.63
        assert {name: row.mean for name, row in EXPERTS.items()} == {
            "one-per-client": 80.69, "single": 82.00, "single-r4x": 83.84, "own-expert": 85.91, "fedlease": 87.76,
        }  # fmt: skip
        # FedTreeLoRA is above FedLEASE by 1.17.
        gap = NLG_MAIN["fedtreelora"].mean - NLG_MAIN["fedlease"].mean
        assert gap == pytest.approx(1.48)
        gap = LABEL_SKEW["fedtreelora"].mean - LABEL_SKEW["fedlease"].mean
        assert gap == pytest.approx(1.17) and LABEL_SKEW["fedtreelora-grouping"].mean == 91.40

    @pytest.mark.parametrize("name", EXPERIMENTS)
    def test_every_figure_has_a_variant(self, name: str) -> None:
        experiment = EXPERIMENTS[name]
        assert set(experiment.paper) <= {variant.name for variant in experiment.variants}

    def test_the_docs_state_them_and_name_every_experiment(self) -> None:
        text = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")
        for name in EXPERIMENTS:
            assert f"`{name}`" in text, name
        for row in (*NLU_MAIN.values(), *NLG_MAIN.values(), *EXPERTS.values(), *LABEL_SKEW.values()):
            for value in (row.mean, *row.per_task.values()):
                assert f"{value:.2f}" in text


class TestPlans:
    @pytest.mark.parametrize("scale", ["small", "paper"])
    @pytest.mark.parametrize("name", EXPERIMENTS)
    def test_every_experiment_plans_at_every_scale(self, name: str, scale: str, tmp_path: Path) -> None:
        ready = planned(name, scale, [0, 1], out=tmp_path / "r")
        assert ready.scenarios and len({cell.folder for cell in ready.cells}) == len(ready.cells) > 0
        for part in ready.scenarios:
            cells = {cell.variant.name: cell for cell in part.cells if cell.seed == 0}
            assert {cell.variant.method for cell in cells.values()} <= set(known_methods())
            budgets = {build_method(c.settings, c.settings.method, {}).budget.passes for c in cells.values()}
            # glue-small: 2 + 4 x 1; paper-nlu: 25 rounds of 2 epochs, 5 of them the warm-up. flan-small: 2 + 2 x 1;
            # paper-nlg: 10 rounds of 2 epochs, 2 of them the warm-up.
            passes = {"small": 4, "paper": 20} if name == "nlg-main" else {"small": 6, "paper": 50}
            assert budgets == {passes[scale]}
            # No two variants are the same run.
            assert len({c.settings.model_dump_json() for c in cells.values()}) == len(cells)
        assert list(tmp_path.iterdir()) == []

    def test_the_main_comparison_holds_every_method_of_the_papers_tables(self) -> None:
        papers = {"fedlease", "fedit", "ffa-lora", "fedsa-lora", "ifca", "feddpa", "fedalt", "fedtreelora"}
        ours = {"fedlease-plus", "local", "centralised"}
        assert {variant.method for variant in EXPERIMENTS["nlu-main"].variants} == papers | ours

    def test_four_times_the_rank_follows_the_rank(self) -> None:
        for changes, rank in (((), 8), (["lora.r=3"], 3)):
            found = settings_of(planned("nlu-main", changes=changes))
            assert (found["fedlease"].lora.r, found["fedit-r4x"].lora.r) == (rank, 4 * rank)
            assert found["fedit-r4x"].lora.alpha == found["fedlease"].lora.alpha
        assert settings_of(planned("ablation-experts", "paper"))["single-r4x"].lora.r == 16

    def test_a_longer_warm_up_takes_from_the_rounds(self) -> None:
        spent = {name: (s.warmup.epochs, s.rounds) for name, s in settings_of(planned("warmup-epochs")).items()}
        assert spent == {"warmup-2": (2, 4), "warmup-1": (1, 5), "warmup-4": (4, 2)}
        # T = 50 in rounds of two epochs.
        paper = settings_of(planned("warmup-epochs", "paper"))
        spent = {name: (s.warmup.epochs, s.rounds) for name, s in paper.items()}
        assert spent == {"warmup-10": (10, 20), "warmup-2": (2, 24), "warmup-4": (4, 23), "warmup-20": (20, 15)}

    def test_a_warm_up_that_does_not_fit_the_budget_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="a warm-up of 4 epochs and rounds of 1 cannot spend the budget T = 3"):
            planned("warmup-epochs", changes=["rounds=1"])
        ready = planned("warmup-epochs", changes=["rounds=1"], only=["warmup-1", "warmup-2"])
        assert {(c.settings.warmup.epochs, c.settings.rounds) for c in ready.cells} == {(1, 2), (2, 1)}

    @pytest.mark.parametrize(("scale", "clients"), [("small", 8), ("paper", 16)])
    def test_heterogeneity_varies_the_tasks_and_not_the_number_of_clients(self, scale: str, clients: int) -> None:
        ready = planned("heterogeneity", scale)
        data = [part.settings.data for part in ready.scenarios]
        assert [len(d.tasks) for d in data] == [1, 2, 4]
        assert {len(d.tasks) * d.clients_per_task for d in data} == {clients}

    def test_label_skew_deals_one_task_at_a_time(self) -> None:
        for scale, clients, tasks in (
            ("small", 8, ["qnli", "sst2", "qqp"]),
            ("paper", 20, ["mnli", "qnli", "sst2", "qqp"]),
        ):
            data = {part.name: part.settings.data for part in planned("label-skew", scale).scenarios}
            assert list(data) == tasks
            for task, d in data.items():
                assert (d.tasks, d.clients_per_task, d.partition, d.alpha) == ((task,), clients, "dirichlet", 0.5)
        both = planned("task-and-label-skew").scenarios[0].settings.data
        assert (both.partition, both.alpha, len(both.tasks), both.clients_per_task) == ("task-and-label", 0.5, 4, 2)

    def test_promising_changes_are_one_each_and_three_together(self) -> None:
        found = settings_of(planned("promising"))
        plain = found.pop("fedlease")
        assert found.pop("fedtreelora").fedlease == plain.fedlease
        differing = {
            name: {k: v for k, v in s.fedlease if getattr(plain.fedlease, k) != v} for name, s in found.items()
        }
        assert differing == {
            "own-start": {"expert_start": "client"},
            "router-own": {"router_start": "own"},
            "product-mean": {"average": "product"},
            "reallocate": {"reallocate": 2},
            "together": {"router_start": "own", "average": "product", "signal": "BA"},
        }

    def test_scenarios_have_folders_of_their_own(self, tmp_path: Path) -> None:
        ready = planned("clients", out=tmp_path)
        assert [part.folder for part in ready.scenarios] == [tmp_path / f"clients-per-task-{n}" for n in (2, 4, 8)]
        assert planned("signal", "paper").scenarios[0].folder == Path("runs/reproduce/signal-paper")

    def test_settings_and_data_are_laid_over_all(self, tmp_path: Path) -> None:
        ready = planned("router-aggregation", data=tmp_path, changes={"train.lr": 0.5}, seeds=[7])
        for cell in ready.cells:
            assert (cell.settings.train.lr, cell.settings.data.path, cell.seed) == (0.5, tmp_path.resolve(), 7)

    def test_the_first_variant_of_those_chosen_is_held_against_the_others(self) -> None:
        ready = planned("nlu-main", only=["local", "fedit"], seeds=[0])
        assert [cell.variant.name for cell in ready.cells] == ["fedit", "local"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (["lora.r=4"], "lora.r: cannot be set here; the experiment 'rank' sets lora.r"),
            ({"lora": {"r": 4}}, "lora: cannot be set here; the experiment 'rank' sets lora.r"),
            (["seed=4"], "seed: cannot be set here; it is chosen by --seeds"),
            (["preset=smoke"], "preset: cannot be set here; it is chosen by --scale"),
            (["method=local"], "method: cannot be set here; it is chosen by --only"),
            (["lr"], "--set: must be key=value, received 'lr'"),
            (["lr=1"], "lr: no such setting; did you mean 'train.lr'?"),
        ],
    )
    def test_settings(self, changes: Any, said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            planned("rank", changes=changes)
        assert caught.value.faults == (said,)

    def test_names(self) -> None:
        with pytest.raises(ConfigError, match="unknown experiment 'nlu-mian'; did you mean 'nlu-main'\\? `fedl"):
            find("nlu-mian")
        with pytest.raises(ConfigError, match="unknown scale 'papr'; did you mean 'paper'"):
            preset_of(find("nlu-main"), "papr")
        with pytest.raises(ConfigError, match="'signal' has no variant 'signal-AB'; did you mean"):
            planned("signal", only=["signal-AB"])

    def test_data_given_twice(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"data\.path: is given by --data and by --set"):
            planned("signal", data=tmp_path, changes=["data.path=x"])

    def test_rows_that_run_out_in_the_last_part_stop_before_the_first(self, glue: Path, tmp_path: Path) -> None:
        # Eight clients of 18 rows need 144 of the hundred.
        ready = planned("clients", data=glue, changes=TINY, seeds=[0], out=tmp_path / "r")
        heard = Heard()
        with pytest.raises(DataError, match="rows run out: 8 clients"):
            reproduce(ready, on_cell=heard)
        assert heard.ran == [] and not (tmp_path / "r").exists()


@pytest.fixture(scope="module")
def overhead(glue: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    out, heard = tmp_path_factory.mktemp("reproduce") / "overhead", Heard()
    ready = planned("overhead", data=glue, changes=TINY, seeds=[0, 1], out=out)
    return out, reproduce(ready, on_cell=heard), heard.ran


class TestRuns:
    def test_finished_cells_are_not_run_again(
        self, overhead: tuple[Path, dict[str, Any], list[str]], glue: Path
    ) -> None:
        out, content, ran = overhead
        assert len(ran) == 6
        ready = planned("overhead", data=glue, changes=TINY, seeds=[0, 1], out=out)
        assert all(cell.finished for cell in ready.cells)
        heard = Heard()
        assert reproduce(ready, on_cell=heard) == content and heard.ran == []
        assert json.loads((out / "reproduce.json").read_text()) == json.loads(json.dumps(content))
        assert (out / "reproduce.md").read_text() == markdown(content)
        assert (out / "compare.html").is_file()

    def test_times_are_those_of_the_cells(self, overhead: tuple[Path, dict[str, Any], list[str]]) -> None:
        out, content, _ = overhead
        found = content["parts"][0]["overhead"]
        folders = [out / "fedlease" / f"seed-{seed}" for seed in (0, 1)]
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
        # Eight clients and T = 2 + 1 passes.
        expected = fmean(summary["seconds"]["train"] / (8 * 3) for summary in summaries)
        assert found["fedlease"]["local_epoch"] == pytest.approx(expected)
        allocations = [rounds_of(folder)[0]["seconds"]["aggregate"] for folder in folders]
        assert found["fedlease"]["allocation"] == pytest.approx(fmean(allocations))
        assert found["fedit"]["allocation"] is None and found["local"]["allocation"] is None
        text = markdown(content)
        assert "clustering takes 3.1 s" in text
        # fedit: 4 modules x r 2 x (32 + 32); eight clients, three rounds, four bytes each.
        assert re.search(r"\| fedit \| - \| \d+\.\d\d s \| 49\.2 kB \| 49\.2 kB \| 512 \|", text)

    def test_usage_is_the_mean_over_clients_and_modules(self, glue: Path, tmp_path: Path) -> None:
        ready = planned("expert-usage", data=glue, changes=TINY, seeds=[0], out=tmp_path / "r")
        content = reproduce(ready)
        summary = json.loads((tmp_path / "r" / "fedlease" / "seed-0" / "summary.json").read_text())
        used = content["parts"][0]["usage"]
        assert set(used) == {"0", "1"} and set(used["0"]) == {"sst2", "qnli", "mrpc", "qqp", "all"}
        by_hand = [
            row["experts_per_token"]
            for client, modules in summary["expert_usage"].items()
            for module, row in modules.items()
            if client.startswith("mrpc") and ".1." in module
        ]
        assert len(by_hand) == 4, "two clients, query and value"
        assert used["1"]["mrpc"] == pytest.approx(fmean(by_hand))
        assert f"| 1 | {' | '.join(f'{v:.2f}' for v in used['1'].values())} |" in markdown(content)

    def test_scenarios_are_compared_apart_and_shown_in_one_table(self, glue: Path, tmp_path: Path) -> None:
        changes = {**TINY, "data.clients_per_task": 1, "data.train_rows": 12}
        only, out = ["fedlease", "local"], tmp_path / "r"
        ready = planned("heterogeneity", data=glue, changes=changes, seeds=[0], only=only, out=out)
        heard = Heard()
        content = reproduce(ready, on_cell=heard)
        parts = ["one-task", "two-tasks", "four-tasks"]
        assert heard.ran == [f"{part}/{name}" for part in parts for name in ("fedlease", "local")]
        rows = [line.split(" | ") for line in markdown(content).splitlines() if line.startswith("| ")][2:]
        assert [(row[0][2:], row[1], row[2]) for row in rows] == [
            (part, "4", name) for part in parts for name in ("fedlease", "local")
        ]
        for part in parts:
            compared = json.loads((tmp_path / "r" / part / "compare.json").read_text())
            mean = compared["variants"]["local"]["mean"]["mean"]
            assert [row[3] for row in rows if row[0] == f"| {part}" and row[2] == "local"] == [f"{100 * mean:.1f}"]
        again = Heard()
        assert reproduce(ready, on_cell=again) == content and again.ran == []

    def test_text_generation_is_compared_with_the_papers_numbers(self, tmp_path: Path) -> None:
        for number, category in enumerate(("edit", "mood")):
            rows = [
                {"instruction": f"{category} {n}", "output": f"say {category} {n}", "task": "t", "category": category}
                for n in range(40)
            ]
            for file, part in ((f"client_{number}", rows[:24]), (f"test_{category}", rows[24:])):
                (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        changes = {**TINY, "data.max_tokens": 64, "data.test_rows": 4, "generation.max_new_tokens": 4}
        only = ["fedlease", "fedtreelora", "fedit", "ifca", "local"]
        ready = planned("nlg-main", data=tmp_path, changes=changes, seeds=[0], only=only, out=tmp_path / "r")
        content = reproduce(ready)
        compared = content["parts"][0]["comparison"]
        assert set(compared["variants"]) == set(only) and compared["metric"] == "rouge1"
        # A random model's words match none; what it learnt differs from method to method.
        losses = {}
        for cell in ready.cells:
            rows = json.loads((cell.folder / "summary.json").read_text())["per_client"].values()
            losses[cell.variant.name] = tuple(row["loss"] for row in rows)
        # Four clients and four candidates: each has one to itself.
        assert losses.pop("ifca") == losses["local"]
        assert len(losses) == len(set(losses.values())) == 4 and all(min(row) > 0 for row in losses.values())
        text = markdown(content)
        assert "ROUGE-1" in text and "/ 61.71 |" in text and "63.19" in text and "accuracy" not in text


def test_the_presets_of_both_scales_need_no_rows_to_be_planned() -> None:
    for name, experiment in EXPERIMENTS.items():
        for preset in experiment.presets.values():
            assert resolve(preset=preset).data.source == ("flan" if name == "nlg-main" else "glue")
