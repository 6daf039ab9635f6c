"""What is loaded computes as the run did, whatever the type and quantisation of the base."""

import copy
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import begun_with, small_run

import fedlease
from fedlease.data.federation import ClientData
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError
from fedlease.tasks.texts import evaluate
from fedlease.use.export import Exporter
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict

EIGHT_BITS = "ignore:MatMul8bitLt. inputs will be cast:UserWarning"
HAS_BITS = importlib.util.find_spec("bitsandbytes") is not None
KINDS: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"base__quantisation": "int8"},
}
METHODS = ("fedlease", "fedit", "feddpa")


@pytest.fixture(scope="module", params=KINDS)
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "int8" and not HAS_BITS:
        pytest.skip("needs bitsandbytes: pip install 'fedlease[quantised]'")
    changes = {**KINDS[request.param], "baselines": METHODS[1:], "train__lr": 0.02, "data__clients_per_task": 1}
    return small_run(tmp_path_factory.mktemp("run") / "r", **changes).out


def clients_of(out: Path) -> list[ClientData]:
    settings = OpenRun(out).settings
    return list(load_federation(settings.data, settings.seed))


def batch_of(out: Path, client: ClientData) -> Any:
    return fedlease.tokenizer(out)(
        [row.text for row in client.test], padding=True, truncation=True, max_length=24, return_tensors="pt"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings(EIGHT_BITS)
@pytest.mark.parametrize("method", METHODS)
def test_it_predicts_what_was_scored(method: str, out: Path) -> None:
    opened = OpenRun(out, method)
    folder = out if method == "fedlease" else out / "baselines" / method
    scored = json.loads((folder / "summary.json").read_text())["per_client"]
    for client in clients_of(out)[:2]:
        model, batch = fedlease.load(out, client.id, method), batch_of(out, client)
        with torch.inference_mode():
            logits = model(**batch).logits
            twin = copy.deepcopy(model)(**batch).logits
        opened.load(client.id)
        # The same rows in one batch: the same operations in the same order.
        assert torch.equal(logits.float(), evaluate(opened.resident, opened.encode(client.test), 1))
        assert torch.equal(logits, twin)
        right = sum(i == row.label for i, row in zip(logits.argmax(-1).tolist(), client.test, strict=True))
        assert right / len(client.test) == scored[client.id]["accuracy"]
        said = [found["prediction"] for found in predict(opened, client.id, client.test)]
        assert said == [client.labels[i] for i in logits.argmax(-1).tolist()]
    Exporter(opened).client(client.id, out.parent / f"x-{method}")
    stated = json.loads((out.parent / f"x-{method}" / "scores.json").read_text())["scores"]
    assert stated["routed"] == scored[client.id]["accuracy"]


@pytest.mark.filterwarnings(EIGHT_BITS)
def test_another_type_may_be_asked_for(out: Path) -> None:
    client = clients_of(out)[0]
    batch = batch_of(out, client)
    models = [fedlease.load(out, client.id, dtype=dtype, device="cpu") for dtype in ("float32", torch.bfloat16)]
    with torch.inference_mode():
        plain, half = (model(**batch).logits.float() for model in models)
    assert not torch.equal(plain, half)
    assert torch.allclose(plain.softmax(-1), half.softmax(-1), atol=0.1)


def test_a_loaded_model_in_bfloat16_can_be_trained_on(tmp_path: Path) -> None:
    out = small_run(tmp_path / "r", baselines=[], rounds=1, dtype="bfloat16", data__clients_per_task=1).out
    client = clients_of(out)[0]
    model = fedlease.load(out, client.id)
    labels = torch.tensor([row.label for row in client.test])
    model(**batch_of(out, client), labels=labels).loss.backward()
    grown = [name for name, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())]
    assert grown and all("fedlease" in name or "modules_to_save" in name for name in grown)


def test_answers_in_bfloat16_are_those_of_the_run(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"task": "generation", "baselines": [], "rounds": 1, "data__max_tokens": 40}
    changes |= {"data__clients_per_task": 1, "data__test_rows": 3}
    out = small_run(tmp_path / "r", dtype="bfloat16", generation__max_new_tokens=6, **changes).out
    opened = OpenRun(out)
    settings = opened.settings
    client = next(iter(load_federation(settings.data, settings.seed, "generation")))
    rows = opened.encode(client.test)
    opened.load(client.id)
    model = fedlease.load(out, client.id)
    for i in range(len(client.test)):
        prompt = rows.questions([i], torch.device("cpu"))
        how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(model.generate(**prompt, **how), opened.resident.generate(prompt, **how))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("plain") / "r", baselines=["fedit"], rounds=1, train__lr=0.02).out


def test_a_type_or_device_that_cannot_be_had_is_refused(plain: Path) -> None:
    out = plain
    for dtype in ("float16", "double", torch.int8):
        with pytest.raises(ConfigError, match="dtype: must be float32 or bfloat16, received "):
            fedlease.load(out, "planted-0-0", dtype=dtype)
    with pytest.raises(ConfigError, match="device: 'cuda:99' cannot be used here"):
        fedlease.load(out, "planted-0-0", device="cuda:99")


@pytest.mark.skipif(not HAS_BITS, reason="needs bitsandbytes: pip install 'fedlease[quantised]'")
def test_a_run_in_four_bits_says_which_device_it_needs(plain: Path, tmp_path: Path) -> None:
    out = shutil.copytree(plain, tmp_path / "r")
    begun_with(out, "quantisation: none", "quantisation: nf4")
    for device in (None, "cpu"):
        with pytest.raises(ConfigError, match="'nf4' works on cuda, the device is 'cpu'"):
            fedlease.load(out, "planted-0-0", device=device)


@pytest.mark.gpu
@pytest.mark.parametrize("quantisation", ["none", "int8", "nf4"])
def test_a_run_on_a_gpu_is_loaded_there(quantisation: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"device": "cuda", "base__quantisation": quantisation, "dtype": "bfloat16"}
    out = small_run(tmp_path / "r", baselines=[], **changes).out
    client = clients_of(out)[0]
    model = fedlease.load(out, client.id, device=None if quantisation == "nf4" else "cuda")
    with torch.inference_mode():
        guesses = model(**batch_of(out, client).to("cuda")).logits.argmax(-1).tolist()
    right = sum(i == row.label for i, row in zip(guesses, client.test, strict=True))
    scored = json.loads((out / "summary.json").read_text())["per_client"][client.id]["accuracy"]
    assert right / len(client.test) == scored


def test_with_the_adapter_disabled_it_answers_as_the_untrained_model(plain: Path) -> None:
    out = plain
    client = clients_of(out)[0]
    batch = batch_of(out, client)
    for method in ("fedlease", "fedit"):
        opened = OpenRun(out, method)
        opened.load(client.id)
        start = opened.loaded.head(client.labels).tensors
        known = json.loads((out / "summary.json").read_text())["per_client"][client.id]["bare_base"]
        found = []
        for _ in range(2):
            junk = [torch.full((64, 64), 7e7) for _ in range(50)]
            del junk
            model = fedlease.load(out, client.id, method)
            with torch.inference_mode():
                routed = model(**batch).logits
                with model.disable_adapter():
                    found.append(model(**batch).logits)
                assert torch.equal(model(**batch).logits, routed)
        assert torch.equal(*found) and not torch.equal(found[0], routed)
        right = sum(i == row.label for i, row in zip(found[0].argmax(-1).tolist(), client.test, strict=True))
        assert right / len(client.test) == known
        heads = {name: p for name, p in model.named_parameters() if "original_module" in name}
        assert len(heads) == len(start)
        assert all(any(torch.equal(p, value) for value in start.values()) for p in heads.values())
