"""Exported folders are stock LoRA that computes the stated version, and state its measured scores."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel
from small import EIGHT, own_rows, small_run, small_settings
from tasks import architectures
from transformers import AutoModelForSequenceClassification

from fedlease.core.folding import expert_alone, fold
from fedlease.core.types import head_names
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError, RunFolderError
from fedlease.reporting.model_card import render_card
from fedlease.storage.run_files import RunFiles
from fedlease.tasks.texts import evaluate
from fedlease.use.experts import experts_of
from fedlease.use.export import Exporter
from fedlease.use.open_run import OpenRun

CLIENT = "planted-1-0"
IDS = torch.arange(4, 44).view(4, 10)


def scores(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "scores.json").read_text())
    return content


def stock(run: OpenRun, folder: Path, num_labels: int = 2) -> PeftModel:
    base = AutoModelForSequenceClassification.from_pretrained(run.out / "base", num_labels=num_labels)
    return PeftModel.from_pretrained(base, str(folder)).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def of(run: OpenRun, model: object) -> torch.Tensor:
    run.load(CLIENT, model)  # type: ignore[arg-type]
    run.resident.model.eval()
    with torch.inference_mode():
        return run.resident.logits({"input_ids": IDS}).clone()


def test_a_folded_client_is_the_mixture_with_constant_weights(run: OpenRun, tmp_path: Path) -> None:
    Exporter(run).client(CLIENT, tmp_path / "x")
    content, model = scores(tmp_path / "x"), run.model(CLIENT)
    lora = stock(run, tmp_path / "x")
    config = lora.peft_config["default"]
    assert type(config) is LoraConfig
    assert config.r == content["rank"] == model.spec.num_experts * model.spec.r
    # The expectation routes with constant weights inside our own layer, not through the fold.
    weights = content["average_weights"]
    assert isinstance(weights, dict)
    run.load(CLIENT)
    run.resident.model.eval()
    handles = []
    for name, layer in run.resident.model.base_model.routed_layers().items():
        constant = torch.tensor(weights[name])

        def mix(
            module: object, args: tuple[torch.Tensor, ...], result: torch.Tensor, w: torch.Tensor = constant
        ) -> torch.Tensor:
            x = args[0]
            total = module.base_layer(x)  # type: ignore[attr-defined]
            for e in range(len(w)):
                a, b = module.stack_a("default")[e], module.stack_b("default")[e]  # type: ignore[attr-defined]
                total = total + model.spec.alpha / model.spec.r * w[e] * (x @ a.T @ b.T)
            return total

        handles.append(layer.register_forward_hook(mix))
    with torch.inference_mode():
        expected = run.resident.logits({"input_ids": IDS})
    for handle in handles:
        handle.remove()
    assert torch.allclose(logits(lora), expected, atol=1e-5)
    assert not torch.allclose(expected, of(run, None), atol=1e-5)  # routing does differ from its average here


def test_weights_are_averages_over_train_tokens_and_sum_to_one(run: OpenRun, tmp_path: Path) -> None:
    Exporter(run).client(CLIENT, tmp_path / "x")
    content = scores(tmp_path / "x")
    assert content["average_weights_from"] == "train rows"
    weights = content["average_weights"]
    assert isinstance(weights, dict) and weights.keys() == set(run.model(CLIENT).spec.target_modules)
    for values in weights.values():
        assert sum(values) == pytest.approx(1, abs=1e-5)


def test_scores_are_those_of_the_versions_on_the_test_rows(run: OpenRun, tmp_path: Path) -> None:
    Exporter(run).client(CLIENT, tmp_path / "x", rank=1)
    content = scores(tmp_path / "x")
    summary = json.loads((run.out / "summary.json").read_text())["per_client"][CLIENT]
    found = content["scores"]
    assert isinstance(found, dict)
    assert found["routed"] == summary["accuracy"]
    assert found["own_expert"] == summary["own_expert"]
    assert content["num_test"] == summary["num_test"]
    test = load_federation(small_settings(**EIGHT).data, 0).clients[CLIENT].test
    run.load(CLIENT, fold(run.model(CLIENT), content["average_weights"], 1))  # type: ignore[arg-type]
    best = evaluate(run.resident, run.encode(test), 1).argmax(-1).tolist()
    assert found["folded"] == sum(b == row.label for b, row in zip(best, test, strict=True)) / len(test)


def test_truncation_and_own_expert(run: OpenRun, tmp_path: Path) -> None:
    exporter, model = Exporter(run, scores=False), run.model(CLIENT)
    exporter.client(CLIENT, tmp_path / "svd", rank=2)
    weights = scores(tmp_path / "svd")["average_weights"]
    small = stock(run, tmp_path / "svd")
    assert small.peft_config["default"].r == 2
    assert torch.allclose(logits(small), of(run, fold(model, weights, 2)), atol=1e-5)  # type: ignore[arg-type]
    exporter.client(CLIENT, tmp_path / "own", mixture="own")
    own = stock(run, tmp_path / "own")
    assert own.peft_config["default"].r == model.spec.r
    assert torch.allclose(logits(own), of(run, expert_alone(model, model.spec.own)), atol=1e-5)


def test_without_scores_the_weights_come_from_the_summary(run: OpenRun, tmp_path: Path) -> None:
    Exporter(run, scores=False).client(CLIENT, tmp_path / "x")
    content = scores(tmp_path / "x")
    usage = json.loads((run.out / "summary.json").read_text())["expert_usage"][CLIENT]
    assert content["average_weights"] == {module: entry["weights"] for module, entry in usage.items()}
    assert content["average_weights_from"] == "test rows of the run"
    assert content["scores"] == {"routed": None, "folded": None, "own_expert": None}


def test_an_expert_is_as_it_is_and_brings_no_local_head(run: OpenRun, tmp_path: Path) -> None:
    exporter = Exporter(run)
    for expert, members in experts_of(exporter.run).items():
        exporter.expert(expert, tmp_path / str(expert))
        content = scores(tmp_path / str(expert))
        assert content["clients"] == members and content["labels"] is None
        found = content["scores_with_each_clients_own_head"]
        summary = json.loads((run.out / "summary.json").read_text())["per_client"]
        assert found == {member: summary[member]["own_expert"] for member in members}
        lora = stock(run, tmp_path / str(expert))
        config = lora.peft_config["default"]
        assert config.modules_to_save is None and config.task_type is None
        # The same body; the stock model's own head is replaced to compare.
        run.load(members[0], expert_alone(run.model(members[0]), expert))
        run.resident.model.eval()
        lora.base_model.model.classifier = run.resident.model.base_model.model.classifier
        with torch.inference_mode():
            assert torch.allclose(logits(lora), run.resident.logits({"input_ids": IDS}), atol=1e-5)


def test_a_shared_head_goes_with_its_expert(tmp_path: Path) -> None:
    own_rows(tmp_path / "data")
    result = small_run(tmp_path / "r", baselines=[], head="shared", data__path=str(tmp_path / "data"))
    run = OpenRun(result.out)
    Exporter(run).expert(0, tmp_path / "x")
    member = experts_of(run)[0][0]
    lora = stock(run, tmp_path / "x")
    run.load(member, expert_alone(run.model(member), 0))
    run.resident.model.eval()
    with torch.inference_mode():
        assert torch.allclose(logits(lora), run.resident.logits({"input_ids": IDS}), atol=1e-5)
    assert head_names(run.model(member).tensors)


def test_all_is_every_expert_and_every_client(run: OpenRun, tmp_path: Path) -> None:
    exporter = Exporter(run, scores=False)
    exporter.everything(tmp_path / "all", rank=1)
    expected = {f"expert-{e}" for e in experts_of(exporter.run)} | {f"client-{c}" for c in run.clients}
    assert {path.name for path in (tmp_path / "all").iterdir()} == expected
    files = {"adapter_config.json", "adapter_model.safetensors", "scores.json", "README.md"}
    for folder in (tmp_path / "all").iterdir():
        labels = {"labels.json"} if folder.name.startswith("client-") else set()
        assert {path.name for path in folder.iterdir()} == files | labels


def test_a_method_with_one_adapter_exports_it_unchanged(out: Path, tmp_path: Path) -> None:
    run = OpenRun(out, "local")
    exporter = Exporter(run)
    exporter.client(CLIENT, tmp_path / "x")
    found = scores(tmp_path / "x")["scores"]
    assert isinstance(found, dict) and found["routed"] == found["folded"] == found["own_expert"]
    assert torch.allclose(logits(stock(run, tmp_path / "x")), of(run, run.model(CLIENT)), atol=1e-5)
    with pytest.raises(ConfigError, match="expert: the run has no experts, received 0"):
        exporter.expert(0, tmp_path / "e")


def test_faults_leave_nothing_behind(run: OpenRun, tmp_path: Path) -> None:
    exporter = Exporter(run, scores=False)
    with pytest.raises(ConfigError, match=r"expert: the run has \[0, 1.*received 99"):
        exporter.expert(99, tmp_path / "x")
    with pytest.raises(ConfigError, match="received 'nobody'"):
        exporter.client("nobody", tmp_path / "x")
    with pytest.raises(ConfigError, match=r"rank must be in 1 \.\. \d+ \(experts x r\), received 0"):
        exporter.client(CLIENT, tmp_path / "x", rank=0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="there exists; choose another folder"):
        exporter.client(CLIENT, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_rows_that_changed_are_refused(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    environment = json.loads((copy / "environment.json").read_text())
    RunFiles(copy).write_json("environment.json", {**environment, "data_fingerprint": "0" * 64})
    with pytest.raises(RunFolderError, match="the rows have changed since the start of the run"):
        Exporter(OpenRun(copy)).client(CLIENT, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_card_is_in_the_hubs_form_and_names_from_data_stay_text(run: OpenRun, tmp_path: Path) -> None:
    Exporter(run).client(CLIENT, tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "peft" and front["pipeline_tag"] == "text-classification"
    assert "base_model" not in front  # it was a folder of this machine
    found = scores(tmp_path / "x")
    hostile = {**found, "client": "a|b<img src=x>`[x](y)\n# big", "labels": ["```\n<b>", "'"]}
    how: Any = {"tokenizer": run.tokenizer, "method": run.method, "settings": run.settings}
    text = render_card("client", hostile, **how)
    assert "<img" not in text and "\n# big" not in text
    assert "a\\|b&lt;img src=x&gt;\\`\\[x\\](y)" in text
    assert text.count("```") == card.count("```") + 1 and "\n```\n<b>" not in text  # inside a string, on one line
    source = text.split("```python\n")[1]
    assert "labels = {0: '```\\n<b>', 1: \"'\"}" in source


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_the_cards_code_works_for_a_batch_as_it_is_printed(task: str, tmp_path: Path) -> None:
    """A base without a padding token, as LLaMA's: rows of a batch are read in stock PEFT as each alone."""
    base = architectures.variant(
        architectures.save("opt", tmp_path / "saved"),
        tmp_path / "base",
        "<s> $A",
        {"pad_token_id": None},
        pad_token=None,
        padding_side="right" if task == "generation" else "left",
    )
    changes: dict[str, Any] = {"task": task, "generation__max_new_tokens": 3, "data__max_tokens": 60, "head": "shared"}
    own_rows(tmp_path / "data")
    if task == "generation":
        changes["data__path"] = None
    else:
        changes["data__path"] = str(tmp_path / "data")
    folder = small_run(tmp_path / "r", rounds=1, baselines=[], model=str(base), **changes).out
    run = OpenRun(folder)
    exporter = Exporter(run, scores=False)
    client = next(iter(run.clients))
    exporter.client(client, tmp_path / "client")
    exporter.expert(run.saved.state.inner.assignment[client], tmp_path / "expert")
    for out in (tmp_path / "client", tmp_path / "expert"):
        code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
        names: dict[str, Any] = {}
        exec(code.replace("THIS FOLDER", str(out)).replace("THE BASE MODEL", str(base)), names)
        texts = ["ab", "a text that is longer than the other"]
        with torch.inference_mode():
            both, *alone = (
                names["model"](**names["tokenizer"](some, padding=True, return_tensors="pt")).logits
                if task == "classification"
                else names["model"].generate(
                    **names["tokenizer"](some, padding=True, return_tensors="pt"), max_new_tokens=3, do_sample=False
                )[:, -3:]
                for some in (texts, texts[:1], texts[1:])
            )
        torch.testing.assert_close(both, torch.cat(alone), atol=1e-4, rtol=1e-4)
