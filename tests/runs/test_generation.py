"""Runs that learn to answer: from rows to the files of a run, and what one does with them."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.shell import Shell, shell
from peft import PeftModel
from rich.console import Console
from small import rounds_of, scores_of, small_run, small_settings, tensors_of
from transformers import AutoModelForCausalLM

import fedlease
from fedlease.config.settings import resolve
from fedlease.data.federation import Row
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError, DataError, ModelError
from fedlease.methods.registry import known_methods
from fedlease.peft_plugin.usage import record_usage
from fedlease.reporting.file_scores import render_file_scores
from fedlease.runs.check import check_settings
from fedlease.runs.machine import resolve_machine
from fedlease.runs.runner import resume, run_settings
from fedlease.server.events import RunStarted
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.run_folder import changed_settings, read_settings
from fedlease.tasks.text_scores import rouge
from fedlease.use.chat import Chat
from fedlease.use.export import Exporter
from fedlease.use.file_scores import FileScores
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict, predict_file

__all__ = ["shell"]

CLIENT = "planted-1-0"
GENERATION = {
    "task": "generation",
    "data__max_tokens": 40,
    "data__test_rows": 4,
}


def generation_run(out: Path, **changes: Any) -> Path:
    return small_run(out, **{**GENERATION, **changes}).out


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generation_run(tmp_path_factory.mktemp("run") / "r", baselines=["local"])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generation_run(tmp_path_factory.mktemp("mixed") / "r", baselines=["feddpa"], train__lr=2e-2)


@pytest.fixture(scope="module")
def run(out: Path) -> OpenRun:
    return OpenRun(out)


def read(file: Path) -> Any:
    return json.loads(file.read_text())


KIN = {"fedmomentum", "fedprox", "fedrot-lora", "rolora", "scaffold", "fedsvd", "flexlora", "flora"}
"""Methods whose clients train and score what those of ``fedit`` and ``fedex-lora`` do."""


def test_every_method_learns_to_answer(tmp_path: Path) -> None:
    """The loss on train answers falls from the first to the last step."""
    others = sorted({*known_methods()} - KIN - {"fedlease"})
    changes = {"train__lr": 1e-2, "generation__score_rounds": False, "data__test_rows": 1}
    run = generation_run(tmp_path / "r", baselines=others, **changes)
    for folder in (run, *(run / "baselines" / name for name in others)):
        losses = [sum(c["loss"] for c in step["clients"].values()) for step in rounds_of(folder)]
        assert losses[-1] < losses[0], folder.name
        summary = read(folder / "summary.json")
        assert summary["metric"] == "rouge1" and 0 <= summary["mean"] <= 1
        assert summary["head_bytes_up"] == summary["head_bytes_down"] == 0


def test_the_files_hold_scores_rows_and_samples_that_agree(out: Path) -> None:
    summary, rows, samples = (read(out / f"{name}.json") for name in ("summary", "row_scores", "samples"))
    for client, entry in summary["per_client"].items():
        values = [float(value) for value in rows[client]]
        assert len(values) == entry["num_test"] == 4
        assert sum(values) / 4 == pytest.approx(entry["rouge1"], abs=1e-5)
        assert {"rougeL", "exact_match", "answer_accuracy", "loss", "majority", "bare_base"} <= entry.keys()
        assert len(samples[client]) == 3
        for value, sample in zip(values, samples[client], strict=False):
            assert rouge([sample["answer"]], [sample["reference"]])["rouge1"][0] == pytest.approx(value, abs=1e-5)
    assert summary["mean_rougeL"] == pytest.approx(
        sum(entry["rougeL"] for entry in summary["per_client"].values()) / len(summary["per_client"])
    )
    assert "mean_macro_f1" not in summary and "mean_loss" not in summary
    # The untrained model says the same, whoever is compared with it.
    other = read(out / "baselines/local/samples.json")
    assert [s["base"] for s in other[CLIENT]] == [s["base"] for s in samples[CLIENT]]


def test_no_samples_are_kept_where_none_are_wanted(tmp_path: Path) -> None:
    run = generation_run(tmp_path / "r", rounds=0, generation__samples=0)
    assert not (run / "samples.json").exists()


def test_rounds_need_not_be_scored(out: Path, tmp_path: Path) -> None:
    """The result is the same; only what is measured on the way is missing."""
    run = generation_run(tmp_path / "r", generation__score_rounds=False)
    assert all(step["mean_score"] is None for step in rounds_of(run))
    assert all("score" not in row for step in rounds_of(run) for row in step["clients"].values())
    assert read(run / "summary.json")["per_client"] == read(out / "summary.json")["per_client"]


def test_a_run_that_was_stopped_goes_on_to_the_same_end(out: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(event: Any) -> None:
        if getattr(event, "record", {}).get("round") == 1:
            raise StopError

    with pytest.raises(StopError):
        small_run(tmp_path / "r", [stop], **GENERATION)
    resume(tmp_path / "r")
    assert tensors_of(tmp_path / "r") == tensors_of(out)
    # The verdict is of all methods of a run.
    mine, theirs = ({**scores_of(read(run / "summary.json")), "verdict": None} for run in (tmp_path / "r", out))
    assert mine == theirs


def test_checkpointing_computes_the_same(out: Path, tmp_path: Path) -> None:
    run = generation_run(tmp_path / "r", train__gradient_checkpointing=True)
    one, two = (Checkpoint(folder).load() for folder in (run, out))
    assert one is not None and two is not None
    for expert, other in zip(one.state.inner.experts, two.state.inner.experts, strict=True):
        for name, tensor in expert.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5)


def test_check_knows_what_writing_costs(tmp_path: Path) -> None:
    with_rounds, without = (
        check_settings(small_settings(**GENERATION, generation__score_rounds=score)).estimates[0]
        for score in (True, False)
    )
    assert with_rounds.bytes_up == without.bytes_up > 0


@pytest.mark.parametrize("method", ["fedlease", "feddpa"])
def test_answers_are_those_of_the_loaded_model(method: str, mixed: Path) -> None:
    """FedDPA's shares are those of the prompt, for batches of ours and for ``generate`` of the loaded model."""
    out, run = mixed, OpenRun(mixed, method)
    rows = [Row(text, None, 0) for text in ("abc", "a longer prompt", "x y z")]
    found = [said["prediction"] for said in predict(run, CLIENT, rows)]
    model, tokenizer = fedlease.load(out, CLIENT, method), fedlease.tokenizer(out)
    for row, said in zip(rows, found, strict=True):
        ids = tokenizer(f"{row.text}\n", return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        text = tokenizer.decode(tokens[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text.strip() == said


def test_usage_counts_prompt_and_answer_of_every_test_row_once(run: OpenRun, out: Path) -> None:
    """Neither what is written while the run scores, nor padding behind an answer, nor a prompt a second time."""
    data = load_federation(run.settings.data, run.settings.seed, "generation").clients[CLIENT]
    rows = run.encode(data.test)
    run.load(CLIENT)
    with record_usage(run.resident.model) as used:
        run.task.mean_loss(run.resident, rows, 1)
    assert set(used.tokens.values()) == {sum(rows.lengths)}
    with record_usage(run.resident.model) as written:
        run.task.measure(run.resident, rows, 1)
    assert written.tokens == used.tokens
    assert read(out / "summary.json")["expert_usage"][CLIENT] == used.summary()


def test_a_file_with_responses_is_scored_as_the_test_rows_of_the_run(run: OpenRun, out: Path, tmp_path: Path) -> None:
    test = load_federation(run.settings.data, run.settings.seed, "generation").clients[CLIENT].test
    rows = [{"prompt": row.text, "response": row.response} for row in test]
    # On one line; rows without a response are answered and not scored.
    file, scores, told = tmp_path / "rows.json", tmp_path / "scores.json", list[FileScores]()
    file.write_text(json.dumps([*rows, {"prompt": "and this", "response": " "}, {"prompt": "what"}]))
    predict_file(run, CLIENT, file, tmp_path / "answers.jsonl", None, scores, told.append)
    found, final = read(scores), read(out / "summary.json")["per_client"][CLIENT]
    assert (found["rows"], found["scored"]) == (len(rows) + 2, len(rows))
    assert {key: found[key] for key in ("rouge1", "rougeL", "exact_match", "loss")} == pytest.approx(
        {key: final[key] for key in ("rouge1", "rougeL", "exact_match", "loss")}, abs=1e-6
    )
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert fedlease.score(out, CLIENT, rows)["loss"] == pytest.approx(found["loss"], abs=1e-6)
    with pytest.raises(DataError, match=r"rows: none of 2 can be scored"):
        fedlease.score(out, CLIENT, ["abc", "x y"])
    to = Console(file=io.StringIO(), width=120)
    render_file_scores(told[0].content, to)
    assert f"perplexity {found['perplexity']:.4g} on {len(rows)} of {len(rows) + 2} rows" in to.file.getvalue()


def test_rows_come_back_with_answers(run: OpenRun, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": "abc", "id": 1},
        {"prompt": "x y", "id": 2, "response": "not looked at"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [said["prediction"] for said in predict(run, CLIENT, [Row(row["prompt"], None, 0) for row in rows])]
    lines = [json.loads(line) for line in predict_file(run, CLIENT, file).splitlines()]
    assert lines == [{**row, "prediction": said} for row, said in zip(rows, expected, strict=True)]
    csv = predict_file(run, CLIENT, file, tmp_path / "out.csv").splitlines()
    assert csv[0] == "prompt,id,response,prediction" and len(csv) == 3
    chat = tmp_path / "chat.jsonl"
    chat.write_text(json.dumps({"messages": [{"role": "user", "content": "abc"}]}) + "\n")
    assert json.loads(predict_file(run, CLIENT, chat))["prediction"] == expected[0]
    predict_file(run, CLIENT, chat, tmp_path / "chat.csv")
    assert '""role"": ""user""' in (tmp_path / "chat.csv").read_text()


def test_nobody_is_talked_to_in_a_run_of_labels(tmp_path: Path) -> None:
    labels = OpenRun(small_run(tmp_path / "r", rounds=0).out)
    with pytest.raises(ConfigError, match=r"there is nobody to talk to"):
        Chat(labels, "planted-0-0")


def test_a_chat_remembers_until_it_is_reset(run: OpenRun) -> None:
    chat = Chat(run, CLIENT, system="be")
    first = chat.reply("abc")
    assert chat.turns == (("system", "be"), ("user", "abc"), ("assistant", first))
    pieces: list[str] = []
    second = chat.reply("more", pieces.append)
    assert "".join(pieces).strip() == second and len(chat.turns) == 5
    chat.reset()
    assert chat.turns == (("system", "be"),)
    assert chat.reply("abc") == first
    alone = Chat(run, CLIENT, remember=False, max_new_tokens=2)
    assert alone.reply("abc") == alone.reply("abc") and alone.turns == ()
    for _ in range(8):
        chat.reply("a line of some length")  # what no longer fits is forgotten


def test_the_terminal_answers_line_by_line(out: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("abc\n\n/reset\nabc\n/quit\nnot read\n"))
    done = shell("chat", out, "--client", CLIENT, "--forget")
    assert (done.code, done.err) == (0, "")
    one, two = done.out.splitlines()
    assert one == two


def test_exported_folders_are_plain_language_model_adapters(run: OpenRun, out: Path, tmp_path: Path) -> None:
    """Stock PEFT, without fedlease's own method, computes the folded adapter's logits."""
    Exporter(run).everything(tmp_path / "all")
    for folder in sorted((tmp_path / "all").iterdir()):
        config = read(folder / "adapter_config.json")
        assert (config["peft_type"], config["task_type"], config["modules_to_save"]) == ("LORA", "CAUSAL_LM", None)
        card = (folder / "README.md").read_text()
        assert "AutoModelForCausalLM" in card and "SequenceClassification" not in card and "classifier" not in card
    folder = tmp_path / "all" / f"client-{CLIENT}"
    stated = read(folder / "scores.json")["scores"]
    assert stated["routed"] == read(out / "summary.json")["per_client"][CLIENT]["rouge1"]
    base = AutoModelForCausalLM.from_pretrained(out / "base")
    stock = PeftModel.from_pretrained(base, str(folder)).eval()
    ids = torch.arange(4, 24).view(2, 10)
    with torch.inference_mode():
        found = stock(input_ids=ids).logits
        plain = AutoModelForCausalLM.from_pretrained(out / "base").eval()(input_ids=ids).logits
    assert found.shape == plain.shape and not torch.allclose(found, plain)


def test_a_newcomer_comes_in(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for split, count in (("train", 8), ("test", 4)):
        lines = [json.dumps({"instruction": f"say {i}", "output": "yes"}) for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    run = generation_run(tmp_path / "r")
    found = onboard(OpenRun(run), "new", folder, epochs=1)
    assert list(found.scores)[:2] == ["most frequent answer", "untrained"]
    assert found.scores["most frequent answer"] == 1.0
    assert len(predict(OpenRun(run), "new", [Row("say 9", None, 0)])) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__max_tokens": 510}, "data.max_tokens: 510 and generation.max_new_tokens = 6 are more than the 512"),
        ({"generation__template": "plain", "data__max_tokens": 16}, "data.max_tokens: no room for a prompt"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(changes: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        generation_run(tmp_path / "r", **changes)
    assert not (tmp_path / "r").exists()


def test_a_presets_lengths_are_cut_to_the_model_and_the_run_says_so(tmp_path: Path) -> None:
    base = generation_run(tmp_path / "first", rounds=0) / "base"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 50}))
    few = {"data.clients_per_task": 1, "data.train_rows": 4, "data.test_rows": 2, "rounds": 0, "warmup.epochs": 1}
    overrides = {"task": "generation", "model": str(base), "baselines": [], **few}
    heard: list[Any] = []
    settings = resolve(preset="smoke", overrides=overrides)  # data.max_tokens 48, generation.max_new_tokens 64
    out = tmp_path / "r"
    run_settings(settings, out, [heard.append])
    assert (read_settings(out).data.max_tokens, read_settings(out).generation.max_new_tokens) == (25, 25)
    (begun,) = (event for event in heard if isinstance(event, RunStarted))
    assert f"data.max_tokens: 25 instead of 48, since model {str(base)!r} reads 50 tokens" in begun.warnings
    # The same settings are those of the run, whatever it made of them.
    assert changed_settings(read_settings(out), resolve_machine(settings)) == []


def test_an_encoder_cannot_write(tmp_path: Path) -> None:
    encoder = small_run(tmp_path / "c", rounds=0).out / "base"
    with pytest.raises(ModelError, match=r"needs a causal language model, .* is BertForSequenceClassification"):
        generation_run(tmp_path / "r", model=str(encoder))
