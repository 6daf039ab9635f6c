"""``fedlease export``: what it refuses, and what it uploads, to a hub on 127.0.0.1."""

import json
from pathlib import Path

import pytest
from cli.shell import Shell
from small import WHOLE, FinishedRuns
from use.fake_hub import TOKEN, fake_hub

CLIENT = "planted-3-0"

# huggingface_hub's own way to call httpx.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def out(finished: FinishedRuns) -> Path:
    return finished(**WHOLE).out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--expert", "0", "--form", "merged"],
            "form: merged is only for a client's model; an expert is exported as an adapter",
        ),
        (["--all", "--base", "a"], "base: must be a hub id, owner/name or owner/name@revision, received 'a'"),
        (["--client", CLIENT, "--public"], "--public: is only for --push-to-hub"),
        (["--client", CLIENT, "--push-to-hub", "a/b/c"], "push-to-hub: must be owner/name, received 'a/b/c'"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_said_in_a_sentence(
    words: list[str], sentence: str, shell: Shell, out: Path, tmp_path: Path
) -> None:
    done = shell("export", out, tmp_path / "x", *words)
    assert (done.code, done.out, done.err) == (2, "", f"fedlease: {sentence}\n")
    assert not (tmp_path / "x").exists()


def test_a_folder_becomes_a_private_repository_with_every_file(
    shell: Shell, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--client", CLIENT, "--no-scores", "--form", "merged", "--push-to-hub", "acme/tiny")
    with fake_hub(monkeypatch) as hub:
        done = shell("export", out, tmp_path / "x", *words)
        assert (done.code, done.out) == (0, f"{tmp_path / 'x'}\n{hub.url}/acme/tiny\n"), done.err
        assert hub.repositories == {"acme/tiny": True}
        assert hub.tokens == {f"Bearer {TOKEN}"}
        assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    assert not [path for path in (tmp_path / "x").iterdir() if TOKEN.encode() in path.read_bytes()]


def test_a_new_repository_is_public_where_that_is_asked_for(
    shell: Shell, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub(monkeypatch) as hub:
        words = ("--all", "--no-scores", "--push-to-hub", "tiny", "--public")
        done = shell("export", out, tmp_path / "x", *words)
        assert done.code == 0 and hub.repositories == {"me/tiny": False}
        assert f"client-{CLIENT}/adapter_model.safetensors" in hub.files
        assert json.loads(hub.files["expert-0/scores.json"])["expert"] == 0


def test_what_the_hub_refuses_and_a_hub_that_is_away_are_told_and_the_folder_stays(
    shell: Shell, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--client", CLIENT, "--no-scores", "--push-to-hub", "acme/tiny")
    with fake_hub(monkeypatch) as hub:
        hub.refuse = 403
        done = shell("export", out, tmp_path / "x", *words)
        assert done.code == 2 and (tmp_path / "x" / "README.md").is_file()
        assert done.err.startswith(
            f"fedlease: push-to-hub: {hub.url} answers 403 for acme/tiny: You don't have the rights"
        )
        assert done.err.endswith(f"upload it by: hf upload acme/tiny {tmp_path / 'x'}\n") and TOKEN not in done.err
    away = shell("export", out, tmp_path / "y", *words)
    assert away.code == 2 and "was not reached" in away.err and len(away.err.splitlines()) == 1
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    nobody = shell("export", out, tmp_path / "z", *words)
    assert nobody.code == 2 and "no token of the hub; run `hf auth login` or set HF_TOKEN" in nobody.err
    assert not (tmp_path / "z").exists()
