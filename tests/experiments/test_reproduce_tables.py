"""The page of an experiment, from made-up numbers: ours beside the published ones."""

from dataclasses import asdict
from statistics import fmean
from typing import Any

from reporting.comparisons import variant

from fedlease.experiments.catalogue import EXPERIMENTS
from fedlease.experiments.reproduce_tables import markdown


class TestTheTable:
    """Numbers made up, so that what is printed is known."""

    def comparison(self, **means: float) -> dict[str, Any]:
        rows = {
            name.replace("_", "-"): variant(name, [mean], {task: [mean] for task in ("mrpc", "sst2")})
            for name, mean in means.items()
        }
        first, *others = rows
        return {
            "metric": "accuracy", "head": "local", "passes": 6, "seeds": [0],
            "coverage": [{"seed": 0, "averaged": 8, "clients": 8, "left_out": {}}], "first": first,
            "best_other": None, "majority_mean": 0.5, "variants": rows,
            "differences": {name: {"mean": means[first] - rows[name]["mean"]["mean"], "low": -1, "high": 1,
                                   "clients": [8]} for name in others},
        }  # fmt: skip

    def content(self, name: str, parts: dict[str, dict[str, Any]], scale: str = "small") -> dict[str, Any]:
        experiment = EXPERIMENTS[name]
        content = {
            "experiment": name, "scale": scale, "asks": experiment.asks, "how": experiment.how, "seeds": [0],
            "changes": {"lora.r": 2}, "parts": [{"part": part, "comparison": c} for part, c in parts.items()],
            "means_over_parts": {}, "paper": {key: asdict(row) for key, row in experiment.paper.items()},
            "paper_words": experiment.paper_words,
        }  # fmt: skip
        if experiment.over_scenarios:
            content["means_over_parts"] = {
                variant: fmean(c["variants"][variant]["mean"]["mean"] for c in parts.values())
                for variant in next(iter(parts.values()))["variants"]
            }
        return content

    def test_ours_stand_beside_the_published(self) -> None:
        text = markdown(self.content("nlu-main", {"": self.comparison(fedlease=0.75, fedit=0.6, local=0.7)}))
        # 87.76 - 82.23 = 5.53; local has no published figure and no row here.
        assert "| ours / published | sst2 | mrpc | mean | fedlease is above it by |" in text
        assert "| fedlease | 75.0 / 93.33 | 75.0 / 86.93 | 75.0 / 87.76 |  |" in text
        assert "| fedit | 60.0 / 93.33 | 60.0 / 76.35 | 60.0 / 82.23 | +15.0 / +5.53 |" in text
        assert text.count("| local |") == 2, "in the two tables of ours alone"
        assert "Set for all: `lora.r=2`." in text and "compare the order" in text

    def test_at_the_papers_scale_levels_may_be_compared(self) -> None:
        content = self.content("ablation-experts", {"": self.comparison(fedlease=0.75, single=0.6)}, "paper")
        text = markdown(content)
        assert "compare the order" not in text
        assert "| single | 60.0 / 82.00 | +15.0 / +5.76 |" in text

    def test_the_mean_over_scenarios_stands_beside_a_mean_over_tasks(self) -> None:
        parts = {"qnli": self.comparison(fedlease=0.6, fedtreelora=0.5),
                 "sst2": self.comparison(fedlease=0.8, fedtreelora=0.9)}  # fmt: skip
        text = markdown(self.content("label-skew", parts))
        assert "| ours / published | mean over 2 scenarios | fedlease is above it by |" in text
        # (0.5 + 0.9) / 2 = 0.7 = (0.6 + 0.8) / 2
        assert "| fedtreelora | 70.0 / 92.36 | +0.0 / -1.17 |" in text
        assert "| sst2 | 8 | fedtreelora | 90.0 | \N{MINUS SIGN}10.0 (\N{MINUS SIGN}100.0 to +100.0) |" in text

    def test_without_published_figures_it_says_so(self) -> None:
        text = markdown(self.content("clustering", {"": self.comparison(fedlease=0.75, spectral=0.6)}))
        assert "No published figures are known" in text and "ours / published" not in text
