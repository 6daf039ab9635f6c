"""A run folder that somebody else sent: what is read is what the run wrote, or one sentence says what is wrong."""

import json
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from small import own_rows, small_run, small_settings

from fedlease._version import __version__
from fedlease.core.codec import digest
from fedlease.data.federation import Row
from fedlease.errors import InputError, RunFolderError
from fedlease.experiments.compare import compare
from fedlease.experiments.experiment import variants_of
from fedlease.reporting.run.page import write_report
from fedlease.runs.runner import resume
from fedlease.storage.environment import FORMAT
from fedlease.storage.run_files import as_json, sealed
from fedlease.storage.run_folder import read_settings
from fedlease.storage.summary import RESULT, contents_of
from fedlease.use.experts import experts_of
from fedlease.use.export import Exporter
from fedlease.use.load import load
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict

SEED = 20
SECONDS = 20
"""That a reader may take with one folder; untouched they take a tenth of one."""
CLIENT = "one"
Outcome = tuple[str, Any]


def predicted(out: Path, _: Path) -> Any:
    return [p["probabilities"] for p in predict(OpenRun(out), CLIENT, [Row("one says yes 1", None, 0)])]


def loaded(out: Path, _: Path) -> Any:
    # What an adapter replaces is random, and takes no part.
    state = load(out, CLIENT).state_dict()
    return {name: float(value.double().sum()) for name, value in state.items() if "original_module" not in name}


def exported(out: Path, scratch: Path) -> Any:
    exporter = Exporter(OpenRun(out), scores=False)
    exporter.client(CLIENT, scratch / "exported")
    written = {path.relative_to(scratch) for path in scratch.rglob("*")}
    return experts_of(exporter.run), written, (scratch / "exported" / "adapter_model.safetensors").read_bytes()


def served(out: Path, _: Path) -> Any:
    from fedlease.use.serving.app import make_app

    run = OpenRun(out)
    make_app(run)
    return sorted(run.clients)


def onboarded(out: Path, scratch: Path) -> Any:
    return onboard(OpenRun(out), "late", scratch / "no-rows")


READERS: dict[str, Callable[[Path, Path], Any]] = {
    "resume": lambda out, _: contents_of(resume(out)),
    "report": lambda out, _: write_report(out).read_bytes(),
    "predict": predicted,
    "load": loaded,
    "export": exported,
    "serve": served,
    "onboard": onboarded,
}


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(reader: str, out: Path, scratch: Path) -> Outcome:
    scratch.mkdir()
    try:
        with no_longer_than(SECONDS):
            return "result", READERS[reader](out, scratch)
    except InputError as error:
        assert error.faults and all(fault.strip() and len(fault) < 2000 for fault in error.faults)
        return "refused", tuple(fault.replace(str(scratch), "SCRATCH") for fault in error.faults)
    finally:
        shutil.rmtree(scratch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a baseline and a newcomer."""
    home = tmp_path_factory.mktemp("whole")
    data = own_rows(home / "data", ("one", "two", "three"), train=4)
    out = small_run(home / "r", data__path=str(data), baselines=["fedit"], rounds=1).out
    onboard(OpenRun(out), "new", own_rows(home / "new", ("new",), train=4) / "new", epochs=0)
    return out


@pytest.fixture(scope="module")
def untouched(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    home = tmp_path_factory.mktemp("untouched")
    shutil.copytree(whole, home / "r")
    found = {reader: outcome(reader, home / "r", home / "scratch") for reader in READERS}
    assert {reader for reader, (kind, _) in found.items() if kind == "refused"} == {"onboard"}
    assert "no-rows" in found["onboard"][1][0]
    return found


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the run, beside something that nobody may touch."""
    torch.manual_seed(0)
    shutil.copytree(whole, tmp_path / "home" / "r")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine\n")
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.glob("**/*")}
    beside = {path for path in before if tmp_path / "home" / "r" not in (path, *path.parents)}
    yield tmp_path / "home" / "r"
    after = {path for path in tmp_path.glob("**/*") if tmp_path / "home" / "r" not in (path, *path.parents)}
    assert after == beside
    assert (outside.stat().st_mtime_ns, False) == before[outside]
    assert ((outside / "mine").stat().st_mtime_ns, b"mine\n") == before[outside / "mine"]


def read_all(place: Path, untouched: dict[str, Outcome], tmp_path: Path, readers: Any = READERS) -> dict[str, Outcome]:
    found = {}
    scratch = tmp_path.parent / f"{tmp_path.name}-scratch"
    for reader in readers:
        found[reader] = outcome(reader, place, scratch)
        if found[reader][0] == "result":
            assert found[reader] == untouched[reader], f"{reader}: another result, and no word about it"
    return found


def files_of(out: Path) -> list[str]:
    names = (path.relative_to(out).as_posix() for path in sorted(out.rglob("*")) if path.is_file())
    return [name for name in names if not name.endswith(("report.html", ".lock"))]


def truncate(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def flip(path: Path, chance: random.Random) -> None:
    blob = bytearray(path.read_bytes())
    blob[chance.randrange(len(blob))] ^= 1 << chance.randrange(8)
    path.write_bytes(blob)


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def add(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(9))


DAMAGE = (truncate, flip, delete, add)


def compared(out: Path, scratch: Path) -> Any:
    shutil.copytree(out, scratch / "c" / "fedlease" / "seed-0")
    return compare(small_settings(), variants_of(["fedlease"]), [0], scratch / "c")


@pytest.mark.parametrize("number", [FORMAT + 1, FORMAT - 1, str(FORMAT), FORMAT + 0.5, True, None, "none"])
def test_a_folder_of_another_format_is_refused_by_every_reader(number: Any, place: Path, tmp_path: Path) -> None:
    environment = json.loads((place / "environment.json").read_text())
    stated = {key: value for key, value in environment.items() if key != "format"}
    stated |= {"fedlease": "9.8.7"} if number == "none" else {"fedlease": "9.8.7", "format": number}
    what = "states no format" if number == "none" else f"is of format {number!r}"
    # In another format all other files may look otherwise.
    (place / "environment.json").write_text(json.dumps({**stated, "started": [[]]}))
    (place / "files.json").write_text("{}")
    scratch = tmp_path.parent / f"{tmp_path.name}-scratch"
    for name, reader in {**READERS, "compare": compared}.items():
        with pytest.raises(RunFolderError) as caught:
            reader(place, scratch)
        (fault,) = caught.value.faults
        assert f"{what}: read it with the fedlease that wrote it, version 9.8.7; version {__version__}, " in fault, name
        assert fault.endswith(f"reads format {FORMAT}")


@pytest.mark.slow
def test_whatever_happens_to_a_file_is_told_or_changes_nothing(
    whole: Path, untouched: dict[str, Outcome], tmp_path: Path
) -> None:
    """Seeded: every file once, damaged in one of four ways; every reader."""
    chance = random.Random(SEED)
    for number, name in enumerate(files_of(whole)):
        damage = chance.choice(DAMAGE)
        out = tmp_path / str(number) / "r"
        shutil.copytree(whole, out)
        damage(out / name, chance)
        # Resuming repairs what is missing, and must not hide the damage from the next reader.
        readers = [reader for reader in READERS if reader != "resume"]
        if damage is delete and name.endswith(RESULT):
            readers.remove("report")  # it says that the method is not finished
        if damage is delete and name.endswith("onboarding.json"):
            continue  # it is written last: without it the client was never taken in
        found = read_all(out, untouched, tmp_path / str(number), readers)
        if name.endswith(("config.yaml", "clients.json", "environment.json", "files.json")) and damage is not delete:
            told = {reader for reader, (kind, _) in found.items() if kind == "refused"}
            # A byte after the last line of YAML may be white space, which changes nothing.
            assert told == set(readers) or name == "config.yaml", (name, damage.__name__)


def test_a_cut_config_is_told_wherever_it_is_cut(whole: Path, place: Path) -> None:

    settings = read_settings(whole)
    text = (place / "config.yaml").read_bytes()
    chance = random.Random(SEED)
    told = 0
    for length in sorted(chance.sample(range(len(text)), 40)):
        (place / "config.yaml").write_bytes(text[:length])
        try:
            # What is of a call and of this machine may be edited.
            here = read_settings(place).model_copy(update={"flower": settings.flower, "device": settings.device})
            assert here == settings
        except InputError:
            told += 1
    assert told > 20


LINKS = (
    "rounds.jsonl.tmp", "report.html.tmp", "report.html", "summary.json", "config.yaml", "clients.json", ".lock",
    ".report.lock", "state", "base", "baselines", "baselines/fedit/state", "onboarded", "onboarded/new", "tensorboard",
    "state/more", "anything",
)  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_refused_by_every_reader(
    name: str, place: Path, untouched: dict[str, Outcome], tmp_path: Path
) -> None:
    path = place / name
    target = tmp_path / "outside" / ("mine" if path.suffix or path.name == ".lock" else "")
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)
    found = read_all(place, untouched, tmp_path)
    assert all(kind == "refused" and "link" in said[0] for kind, said in found.values()), found
    assert all(len(said) == 1 for _, said in found.values())


BOMB = "a: &a [x,x]\n" + "".join(f"b{i}: &b{i} [*{'a' if not i else f'b{i - 1}'}, *a]\n" for i in range(60))
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**42)


ODD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "aliases": ("config.yaml", lambda path: path.write_text(BOMB)),
    "merges": ("config.yaml", lambda path: path.write_text("a: &a {b: 1}\nc: {<<: *a}\n" * 9)),
    "lines": ("config.yaml", lambda path: path.write_text("# more\n" * 300_000)),
    "deep yaml": ("config.yaml", lambda path: path.write_text("[" * 100_000)),
    "tag": ("config.yaml", lambda path: path.write_text("seed: !!int ''\nrounds: !!bool x\n")),
    "not utf-8": ("config.yaml", lambda path: path.write_bytes(b"seed: \xff\n")),
    "nul": ("config.yaml", lambda path: path.write_bytes(b"model: \0\n")),
    "deep json": ("clients.json", lambda path: path.write_bytes(DEEP)),
    "a list": ("clients.json", lambda path: path.write_text("[1]")),
    "many lines": ("rounds.jsonl", lambda path: path.write_bytes(path.read_bytes() * 100_000)),
    "pipe": ("config.yaml", fifo),
    "pipe of rounds": ("rounds.jsonl", fifo),
    "pipe in state": ("state/more", fifo),
    "folder for a file": ("summary.json", folder),
    "folder for the manifest": ("state/manifest.json", folder),
    "larger than the disk": ("clients.json", sparse),
    "state larger than the disk": ("state/manifest.json", sparse),
    "stranger in the base": ("base/adapter_config.json", lambda path: path.write_text("{}")),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_are_one_sentence_in_bounded_time(
    kind: str, place: Path, untouched: dict[str, Outcome], tmp_path: Path
) -> None:
    name, change = ODD[kind]
    change(place / name)
    found = read_all(place, untouched, tmp_path)
    assert any(kind == "refused" for kind, _ in found.values() if kind), found
    assert found["predict"][0] == "refused" or name in ("rounds.jsonl", "summary.json"), found


ANYTHING: tuple[Any, ...] = (
    None, True, -1, 10**400, 1e308, math.nan, math.inf, "", "x", "a\0b", "../../outside/mine", "a/../../x", [], [[]],
    {}, {"a/../../x": 1}, [None] * 3, 2**62, -0.5, "\ud800",
)  # fmt: skip


def changed(value: Any, chance: random.Random) -> Any:
    """The value with one member, however deep, replaced by something else, or renamed."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        if chance.random() < 0.15:
            return {(chance.choice(["../x", "a\0", "", "other"]) if k == key else k): v for k, v in value.items()}
        return {**value, key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], changed(value[place], chance), *value[place + 1 :]]
    return chance.choice(ANYTHING)


def sign(out: Path) -> None:
    """Makes every digest right again, as whoever tampers on purpose does."""
    for manifest in out.rglob("manifest.json"):
        content = json.loads(manifest.read_text())
        content.pop("sha256")
        if isinstance(content.get("rounds_lines"), int) and 0 <= content["rounds_lines"] < 99:
            kept = (manifest.parents[1] / "rounds.jsonl").read_bytes().split(b"\n")[: content["rounds_lines"]]
            content["rounds_sha256"] = digest(b"".join(line + b"\n" for line in kept))
        manifest.write_bytes(json.dumps(sealed(content)).encode())
    index = json.loads((out / "files.json").read_text())
    index.pop("sha256")
    index["files"] = {name: [digest((out / name).read_bytes())] for name in index["files"] if (out / name).is_file()}
    (out / "files.json").write_bytes(as_json(sealed(index)))


SIGNED = (
    "clients.json", "environment.json", "allocation.json", "summary.json", "row_scores.json", "state/manifest.json",
    "onboarded/new/onboarding.json", "baselines/fedit/summary.json", "baselines/fedit/state/manifest.json",
    "rounds.jsonl", "state",
)  # fmt: skip


def tamper(out: Path, name: str, chance: random.Random) -> None:
    path = out / name
    if name == "rounds.jsonl":
        lines = path.read_text().splitlines()
        place = chance.randrange(len(lines))
        lines[place] = json.dumps(changed(json.loads(lines[place]), chance))
        path.write_text("\n".join(lines) + "\n", errors="surrogatepass")
    elif name == "state":
        manifest = json.loads((path / "manifest.json").read_text())
        entry = manifest["state"]
        blob = (path / entry["file"]).read_bytes()
        size = int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8 : 8 + size])
        tree = changed(json.loads(header["__metadata__"]["fedlease"]), chance)
        header["__metadata__"]["fedlease"] = json.dumps(tree)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        blob = len(text).to_bytes(8, "little") + text + blob[8 + size :]
        sha256 = digest(blob)
        manifest["state"] = {"file": f"{sha256[:32]}.safetensors", "sha256": sha256}
        (path / manifest["state"]["file"]).write_bytes(blob)
        (path / "manifest.json").write_text(json.dumps(manifest))
    else:
        path.write_text(json.dumps(changed(json.loads(path.read_text()), chance)), errors="surrogatepass")


@pytest.mark.parametrize("name", SIGNED)
def test_whoever_makes_the_digests_right_gets_a_result_or_a_sentence(name: str, whole: Path, tmp_path: Path) -> None:
    """Seeded: values of other types, NaN, huge numbers, paths as names, in files whose digests are right."""
    chance = random.Random(f"{SEED} {name}")
    readers = ["report"] if name in ("rounds.jsonl", "row_scores.json") else ["report", "predict", "resume", "export"]
    refused = 0
    for number in range(3):
        out = tmp_path / "home" / "r"
        shutil.copytree(whole, out)
        tamper(out, name, chance)
        # A manifest that is no object any more needs no digest to be refused.
        with suppress(AttributeError, KeyError, TypeError):
            sign(out)
        for reader in readers:
            refused += outcome(reader, out, tmp_path / "scratch")[0] == "refused"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["home"], number
        assert [path.name for path in (tmp_path / "home").iterdir()] == ["r"], number
        shutil.rmtree(out)
    assert refused or name in ("rounds.jsonl", "row_scores.json", "environment.json")
