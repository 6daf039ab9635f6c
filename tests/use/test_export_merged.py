"""A merged export is the whole model by itself, and no export knows the machine that it was made on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from small import FinishedRuns, own_rows, small_run
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from fedlease.core.folding import expert_alone
from fedlease.data.federation import Row
from fedlease.errors import ConfigError
from fedlease.reporting.model_card import render_card
from fedlease.tasks.prompts import Prompts
from fedlease.use.export import Exporter
from fedlease.use.merged import merged_into
from fedlease.use.open_run import OpenRun

CLIENT = "planted-3-0"
"""It has three labels, where transformers assumes two."""
LABELS = ["low", "middle", "high"]
IDS = torch.arange(4, 44).view(4, 10)


def of(run: OpenRun, model: Any) -> torch.Tensor:
    run.load(CLIENT, model)
    run.resident.model.eval()
    with torch.inference_mode():
        return run.resident.logits({"input_ids": IDS}).clone()


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return found


def test_a_merged_model_is_its_adapter_on_the_base_and_knows_its_labels(run: OpenRun, tmp_path: Path) -> None:
    exporter = Exporter(run)
    exporter.client(CLIENT, tmp_path / "adapter")
    exporter.client(CLIENT, tmp_path / "merged", form="merged")
    base = AutoModelForSequenceClassification.from_pretrained(
        run.out / "base", num_labels=3, ignore_mismatched_sizes=True
    )
    base.load_adapter(str(tmp_path / "adapter"))
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert whole.config.id2label == dict(enumerate(LABELS)) and whole.config.label2id["high"] == 2
    with torch.inference_mode():
        torch.testing.assert_close(whole.eval()(IDS).logits, base.eval()(IDS).logits, atol=1e-5, rtol=1e-5)
    classify = pipeline("text-classification", model=str(tmp_path / "merged"), top_k=None)
    assert {answer["label"] for answer in classify(["zib"])[0]} == set(LABELS)
    scores = content(tmp_path / "merged")["scores"]
    assert scores["merged"] == scores["folded"] == content(tmp_path / "adapter")["scores"]["folded"]


def test_the_own_expert_can_be_merged_alone(run: OpenRun, tmp_path: Path) -> None:
    Exporter(run, scores=False).client(CLIENT, tmp_path / "m", form="merged", mixture="own")
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    model = run.model(CLIENT)
    with torch.inference_mode():
        torch.testing.assert_close(whole(IDS).logits, of(run, expert_alone(model, model.spec.own)), atol=1e-5, rtol=0)
    assert content(tmp_path / "m")["scores"]["merged"] is None
    assert "its own expert" in (tmp_path / "m" / "README.md").read_text()


def test_the_base_is_bit_for_bit_what_it_was_after_a_merge(run: OpenRun) -> None:
    before, prints = of(run, None), {n: t.clone() for n, t in run.resident.unwrapped().state_dict().items()}
    model = run.model(CLIENT)
    single = expert_alone(model, model.spec.own)
    with pytest.raises(ZeroDivisionError), merged_into(run.resident, single, 3) as whole:
        assert not torch.equal(of(run, whole), before)
        raise ZeroDivisionError
    state = run.resident.unwrapped().state_dict()
    assert all(torch.equal(state[name], value) for name, value in prints.items() if "classifier" not in name)
    assert torch.equal(of(run, None), before)


def test_a_bfloat16_run_is_merged_in_bfloat16_and_measured_as_it_is_stored(tmp_path: Path) -> None:
    out = small_run(tmp_path / "r", rounds=1, baselines=[], dtype="bfloat16").out
    Exporter(OpenRun(out)).client(CLIENT, tmp_path / "m", form="merged")
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m", dtype="auto")
    assert {tensor.dtype for tensor in whole.state_dict().values() if tensor.is_floating_point()} == {torch.bfloat16}
    assert content(tmp_path / "m")["dtype"] == "bfloat16" and content(tmp_path / "m")["scores"]["merged"] is not None


def test_labels_go_with_an_adapter_as_arguments_of_from_pretrained(run: OpenRun, tmp_path: Path) -> None:
    Exporter(run, scores=False, base="acme/tiny@abc").client(CLIENT, tmp_path / "x")
    config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("acme/tiny", "abc")
    # The hub is not asked here: the base lies in a folder.
    here = {**config, "base_model_name_or_path": str(run.out / "base"), "revision": None}
    (tmp_path / "x" / "adapter_config.json").write_text(json.dumps(here))
    first, second = (tmp_path / "x" / "README.md").read_text().split("```python\n")[1:]
    code = first.split("base =")[0] + second.split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("THIS FOLDER", str(tmp_path / "x")), names)
    carried = json.loads((tmp_path / "x" / "labels.json").read_text())
    assert carried["id2label"] == dict(zip("012", LABELS, strict=True)) and carried["label2id"]["middle"] == 1
    assert type(names["model"]).__name__ == "PeftModelForSequenceClassification"
    assert AutoPeftModelForSequenceClassification is names["AutoPeftModelForSequenceClassification"]
    tokenizer = AutoTokenizer.from_pretrained(run.out / "base")
    classify = pipeline("text-classification", model=names["model"], tokenizer=tokenizer, top_k=None)
    assert {answer["label"] for answer in classify(["zib"])[0]} == set(LABELS)


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_no_exported_file_names_a_folder_of_this_machine(form: Any, out: Path, tmp_path: Path) -> None:
    """The run's own folder, where the base of this run lies, occurs in none of them; nor does a relative path."""
    run = OpenRun(out)
    Exporter(run, scores=False).everything(tmp_path / "all", form=form)
    for path in (path for path in (tmp_path / "all").rglob("*") if path.is_file()):
        blob = path.read_bytes()
        assert str(run.out).encode() not in blob and str(run.out.parent).encode() not in blob, path
        assert b"name_or_path" not in blob or b'"base_model_name_or_path": null' in blob, path
    card = (tmp_path / "all" / f"client-{CLIENT}" / "README.md").read_text()
    assert "states the SHA-256 of its files" in card
    sums = content(tmp_path / "all" / f"client-{CLIENT}")["base"]["sha256"]
    assert "model.safetensors" in sums and all(len(mark) == 64 for mark in sums.values())


def test_a_base_in_a_relative_folder_is_not_named_either(
    run: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.out / "base", tmp_path / "bases" / "mine")
    monkeypatch.chdir(tmp_path)
    own_rows(tmp_path / "data")
    out = small_run(tmp_path / "r", rounds=1, baselines=[], model="bases/mine", data__path=str(tmp_path / "data")).out
    Exporter(OpenRun(out), scores=False).client("one", tmp_path / "x")
    assert json.loads((tmp_path / "x" / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert "bases" not in (tmp_path / "x" / "README.md").read_text()


@pytest.fixture(scope="module")
def writer(finished: FinishedRuns) -> OpenRun:
    changes: dict[str, Any] = {"rounds": 1, "baselines": [], "data__max_tokens": 60}
    return OpenRun(finished(task="generation", generation__template="plain", **changes).out)


class TestGeneration:
    def test_a_merged_language_model_reads_prompts_as_the_run_did(self, writer: OpenRun, tmp_path: Path) -> None:
        client = next(iter(writer.clients))
        Exporter(writer).client(client, tmp_path / "m", form="merged")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
        row = Row("zib", None, 0, turns=(("system", "be brief"), ("user", "nee"), ("assistant", "ok")))
        chat = [{"role": role, "content": content} for role, content in (*row.turns, ("user", row.text))]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        assert ids == Prompts(writer.tokenizer, "plain").ids([row])[0]
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
        assert whole.config.eos_token_id == writer.tokenizer.eos_token_id
        scores = content(tmp_path / "m")["scores"]
        assert scores["merged"] == pytest.approx(scores["folded"])

    @pytest.mark.parametrize(("rank", "line"), [(None, "--max-lora-rank {} "), (3, "--max-lora-rank 8 ")])
    def test_the_card_has_the_line_for_vllm_with_a_rank_that_it_takes(
        self, writer: OpenRun, tmp_path: Path, rank: int | None, line: str
    ) -> None:
        client = next(iter(writer.clients))
        Exporter(writer, scores=False).client(client, tmp_path / "x", rank=rank)
        spec = writer.model(client).spec
        # M r of a tiny run is 4, 8, ... 32: the next of 8, 16, 32.
        full = next(known for known in (8, 16, 32) if known >= spec.num_experts * spec.r)
        card = (tmp_path / "x" / "README.md").read_text()
        assert "--enable-lora" in card and line.format(full) in card

    def test_vllms_own_code_reads_an_adapter(self, writer: OpenRun, tmp_path: Path) -> None:
        """Its configuration reader and its loader of weights; where it can be imported."""
        helper = pytest.importorskip("vllm.lora.peft_helper", reason="vllm is not installed", exc_type=ImportError)
        from vllm.config.lora import LoRAConfig
        from vllm.lora.lora_model import LoRAModel

        client = next(iter(writer.clients))
        Exporter(writer, scores=False).client(client, tmp_path / "x")
        read = helper.PEFTHelper.from_local_dir(str(tmp_path / "x"), 512)
        read.validate_legal(LoRAConfig(max_lora_rank=32))
        found = LoRAModel.from_local_checkpoint(str(tmp_path / "x"), {"q_proj", "v_proj"}, read, device="cpu")
        assert set(found.loras) == set(writer.model(client).spec.target_modules)

    def test_a_rank_that_vllm_does_not_take_is_said(self, writer: OpenRun, tmp_path: Path) -> None:
        Exporter(writer, scores=False).client(next(iter(writer.clients)), tmp_path / "x")
        how: Any = {"tokenizer": writer.tokenizer, "method": writer.method, "settings": writer.settings}
        card = render_card("client", {**content(tmp_path / "x"), "rank": 513}, **how)
        assert "vLLM takes ranks of at most 512, and this adapter has 513" in card and "vllm serve" not in card


def test_a_base_in_packed_weights_is_not_merged_with(out: Path, tmp_path: Path) -> None:
    run = OpenRun(out, quantisation="int8")
    with pytest.raises(ConfigError, match="form: the base was opened in int8, and nothing can be added"):
        Exporter(run, scores=False)._merge(run.client(CLIENT), tmp_path / "x", run.model(CLIENT), {})
