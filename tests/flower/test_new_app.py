"""``fedlease new``: an app that is sound as it stands, and refusals before anything is written."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedlease.cli.main import app
from fedlease.config.settings import resolve
from fedlease.errors import ConfigError
from fedlease.flower.new_app import CLIENTS, write_app
from fedlease.flower.policy import NodePolicy
from fedlease.flower.rules_file import policy_of
from fedlease.runs.check import check_settings


def test_a_new_app_is_complete_and_its_settings_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "My Federation 2"
    result = CliRunner().invoke(app, ["new", str(folder)])
    assert result.exit_code == 0 and "next: cd" in result.output
    monkeypatch.chdir(folder)
    report = check_settings(resolve(Path("federation.yaml")))
    assert list(report.tasks) == list(CLIENTS) and not report.warnings
    project = tomllib.loads(Path("pyproject.toml").read_text())
    assert project["project"]["name"] == "my-federation-2"
    for part in project["tool"]["flwr"]["app"]["components"].values():
        assert Path(part.partition(":")[0].replace(".", "/") + ".py").is_file()
    assert yaml.safe_load(Path("federation.yaml").read_text())["flower"]["min_nodes"] == 3
    for path in folder.rglob("*"):
        assert not path.is_file() or "{{" not in path.read_text()
    for client in CLIENTS:  # each line without its "#" is a rule of a node
        rules = (folder / "rows" / client / "node.yaml").read_text()
        assert policy_of({"data-dir": str(folder / "rows" / client)}) == NodePolicy()
        lines = [line.removeprefix("# ") for line in rules.splitlines() if re.match(r"# [a-z-]+: [^ ]", line)]
        Path("rules.yaml").write_text("\n".join(lines))
        assert len(lines) == 13 and policy_of({"rules": "rules.yaml"}).max_rank == 16


def test_names_and_addresses_reach_every_command(tmp_path: Path) -> None:
    write_app(tmp_path / "a", ["clinic", "bank"], "fl.example.org", 9000)
    text = (tmp_path / "a/README.md").read_text()
    assert text.count("fl.example.org:9000") == 2 and "site-a" not in text
    assert "subjectAltName=DNS:fl.example.org,DNS:localhost,IP:127.0.0.1" in text
    assert "--port 9002" in text and "--port 9003" in text
    # What the network reaches is the gate; the SuperLink behind it answers this machine alone.
    assert "fedlease gate --host 0.0.0.0 --port 9000 --superlink 127.0.0.1:9001" in text
    assert "flower-superlink --host 127.0.0.1 --port 9001" in text and text.count("0.0.0.0") == 1
    assert {path.name for path in (tmp_path / "a/rows").iterdir()} == {"clinic", "bank"}
    write_app(tmp_path / "b", host="10.0.0.7")
    assert "subjectAltName=IP:10.0.0.7," in (tmp_path / "b/README.md").read_text()


def test_a_name_that_begins_with_a_digit_still_gives_a_module(tmp_path: Path) -> None:
    write_app(tmp_path / "2026")
    assert (tmp_path / "2026/app_2026_app/client_app.py").is_file()


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"clients": ["one"]}, "--client: a federation needs at least 2 clients, got 1"),
        ({"clients": ["one", "One"]}, "--client: every client needs an id of its own, got one, One"),
        ({"clients": ["one", "$(rm)"]}, r"--client: '$(rm)' stands in commands"),
        ({"clients": ["one", "-x"]}, "--client: '-x' stands in commands"),
        ({"clients": ["one", ""]}, "--client: '' stands in commands"),
        ({"clients": ["one", "../two"]}, "--client: '../two' must not start with a dot"),
        ({"host": "a b"}, "--host: must be a host name or an address, got 'a b'"),
        ({"host": "x;reboot"}, "--host: must be a host name or an address, got 'x;reboot'"),
        ({"port": 0}, "--port: must be from 1 to 65531, since SuperLink and clients use the ports after it, got 0"),
        ({"port": 65532}, "--port: must be from 1 to 65531"),
    ],
)
def test_values_that_cannot_be_used_are_refused(values: dict[str, object], rule: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        write_app(tmp_path / "new", **values)  # type: ignore[arg-type]
    assert rule in str(raised.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["file", "full"])
def test_what_is_there_is_not_written_over(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"DIR: .* exists and is not empty; choose a new folder"):
        write_app(tmp_path / name)
    assert {path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {"mine"}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's use of pathspec
def test_only_what_nodes_need_is_sent_to_them(tmp_path: Path) -> None:
    """Rows, keys and runs in the app's folder are not part of it."""
    build = pytest.importorskip("flwr.cli.build", reason="flwr is not installed: pip install 'fedlease[flower]'")
    import io
    import zipfile

    folder = tmp_path / "fed"
    write_app(folder)
    for name in ("keys/ca.key", "keys/notes.md", "runs/first/summary.json", "more-rows/site-a/train.jsonl", "env.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret")
    packed = zipfile.ZipFile(io.BytesIO(build.build_fab_from_disk(folder)))
    names = {name for name in packed.namelist() if not name.startswith(".info")}
    code = {f"fed_app/{name}.py" for name in ("__init__", "client_app", "server_app")}
    assert names == {"pyproject.toml", "federation.yaml", *code}


def test_the_example_is_what_the_command_writes(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples/flower-app"
    write_app(tmp_path / "flower-app")
    for path in (tmp_path / "flower-app").rglob("*"):
        name = path.relative_to(tmp_path / "flower-app")
        assert path.is_dir() or (example / name).read_bytes() == path.read_bytes(), f"{name}: fedlease new"
