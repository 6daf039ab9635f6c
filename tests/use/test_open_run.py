"""A run folder opened for use: whose models it has, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import small_run

import fedlease
from fedlease.core.types import head_names
from fedlease.errors import ConfigError, RunFolderError
from fedlease.files import read_file
from fedlease.methods.registry import METHODS
from fedlease.models import fingerprints
from fedlease.reporting.run.page import write_report
from fedlease.runs.runner import resume
from fedlease.storage import run_files
from fedlease.storage.checkpoint import Checkpoint
from fedlease.use.open_run import OpenRun


@pytest.mark.parametrize("method", ["fedlease", "fedit", "local"])
def test_it_gives_the_model_that_load_gives(method: str, out: Path) -> None:
    run = OpenRun(out, method)
    ids = torch.arange(4, 24).view(2, 10)
    for client in run.clients:
        run.load(client)
        run.resident.model.eval()
        with torch.inference_mode():
            found = run.resident.logits({"input_ids": ids})
            expected = fedlease.load(out, client, method)(input_ids=ids).logits
        assert torch.allclose(found, expected, atol=1e-6)


def test_a_model_is_complete_and_the_clients_own(out: Path) -> None:
    run = OpenRun(out)
    heads = {}
    for client in run.clients:
        model = run.model(client)
        heads[client] = torch.cat([model.tensors[name].flatten() for name in sorted(head_names(model.tensors))])
        assert model.spec.num_experts > 1
    # Heads are local in this run: no two clients ended with the same.
    values = [head.tolist() for head in heads.values()]
    assert all(values[i] != values[j] for i in range(len(values)) for j in range(i))


def test_a_state_without_heads_is_damage(out: Path) -> None:
    run = OpenRun(out)
    run.saved = replace(run.saved, state=run.saved.state.inner)
    client = next(iter(run.clients))
    for read in (run.expert_of, run.model):
        with pytest.raises(RunFolderError, match=f"the model of client '{client}' is damaged"):
            read(client)


def test_a_base_in_the_run_folder_is_hashed_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def reading(path: Path, most: int) -> bytes:
        read.append(path)
        return read_file(path, most)

    def again(path: Path) -> str:
        raise AssertionError(f"{path} is hashed again")

    monkeypatch.setattr(run_files, "read_file", reading)
    monkeypatch.setattr(fingerprints, "_sha256", again)
    assert OpenRun(out).base
    assert read.count(out / "base" / "model.safetensors") == 1
    (out / "base" / "more.txt").write_text("")
    try:
        with pytest.raises(RunFolderError, match=r"more\.txt was not written by the run"):
            _ = OpenRun(out).base
    finally:
        (out / "base" / "more.txt").unlink()


def test_clients_are_described(out: Path) -> None:
    run = OpenRun(out)
    known = run.client("planted-0-0")
    assert (known.task, known.pairs, known.newcomer) == ("planted-0", False, False)
    assert len(known.labels) >= 2
    assert list(run.clients) == sorted(run.clients)


def test_what_the_run_does_not_have_is_named(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"client: the run has \['planted-0-0'.*received 'nobody'"):
        OpenRun(out).client("nobody")
    with pytest.raises(ConfigError, match=r"method: the run has \['fedlease', 'fedit', 'local'\], received 'ifca'"):
        OpenRun(out, "ifca")
    with pytest.raises(ConfigError, match="device: 'cuda:99' cannot be used here"):
        OpenRun(out, device="cuda:99")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        OpenRun(tmp_path)


def test_a_device_of_another_machine_falls_back_to_the_cpu(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    text = (copy / "config.yaml").read_text()
    assert "device: cpu" in text
    (copy / "config.yaml").write_text(text.replace("device: cpu", "device: cuda:99"))
    assert OpenRun(copy).device == torch.device("cpu")


def test_a_run_without_a_step_says_so(tmp_path: Path, out: Path) -> None:
    for name in ("config.yaml", "environment.json", "clients.json"):
        shutil.copy(out / name, tmp_path / name)
    with pytest.raises(RunFolderError, match="fedlease has not completed a step yet"):
        OpenRun(tmp_path)


def test_a_method_that_is_not_installed_is_named_and_nothing_is_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as installed:
        installed.setitem(METHODS, "plugin", METHODS["local"])
        main = small_run(tmp_path / "main", method="plugin", baselines=[], rounds=0).out
        beside = small_run(tmp_path / "beside", method="local", baselines=["plugin"], rounds=0).out
    for folder in (main, beside):
        for use in (OpenRun, resume, write_report):
            with pytest.raises(RunFolderError) as error:
                use(folder)
            assert str(error.value).startswith(
                f"{folder}: its method 'plugin' is not installed here: install the package that adds it; fedlease meth"
            )
    # The checkpoint alone says so too, whatever the settings beside it name.
    with pytest.raises(RunFolderError, match="its method 'plugin' is not installed here"):
        Checkpoint(main).load()
