"""A client id belongs to a key: who has another takes no part, whether the client is there or away."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flower.nodes import Stopped, grid_of, stop_after

from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError
from fedlease.flower.identity import identified, introduced
from fedlease.flower.keys import fingerprint, public_key, text_of
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.storage.audit import AUDIT, read_trail
from fedlease.storage.run_folder import read_clients, read_settings

CLIENTS = ("planted-0-0", "planted-1-0", "planted-2-0", "planted-3-0")
RUN = "0123456789abcdef" * 2
CARD = ClientCard("clinic-a", "t", ("no", "yes"), False, 4, 0, 4, "f")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key for every client and for a stranger; public ones of clients under ``clients``."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "clients").mkdir()
    for name in (*CLIENTS, "clinic-a", "stranger"):
        made = ec.generate_private_key(ec.SECP384R1())
        (folder / name).write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        if name != "stranger":
            (folder / "clients" / f"{name}.pub").write_text(text_of(made.public_key()))
    return folder


def print_of(keys: Path, client: str) -> str:
    return fingerprint(public_key((keys / "clients" / f"{client}.pub").read_text()))


def grid_with(keys: Path, settings: Any, **others: str) -> MemoryGrid:
    """A grid where each node has its client's key, or that of another."""
    grid = grid_of(settings)
    for number, client in enumerate(CLIENTS):
        grid.contexts[900 - number].node_config["key"] = str(keys / others.get(client.replace("-", "_"), client))
    return grid


def settings_with(keys: Path | None, **changes: Any) -> Any:
    return small_settings(method="local", rounds=1, flower__client_keys=keys and str(keys / "clients"), **changes)


def test_clients_with_their_keys_take_part_and_are_on_record_with_them(keys: Path, tmp_path: Path) -> None:
    settings = settings_with(keys)
    FedLeaseStrategy(settings, tmp_path / "r").start(grid_with(keys, settings))
    known = {client: print_of(keys, client) for client in CLIENTS}
    assert {client: card.key for client, card in read_clients(tmp_path / "r").items()} == known
    joined = [line for line in read_trail(tmp_path / "r" / AUDIT) if line["kind"] == "joined"]
    assert {line["client"]: line["key"] for line in joined} == known
    assert read_settings(tmp_path / "r").flower.client_keys == keys / "clients"


@pytest.mark.parametrize("impostor", ["planted-1-0", "stranger"])
def test_nobody_takes_part_under_an_id_whose_key_it_has_not(impostor: str, keys: Path, tmp_path: Path) -> None:
    """The client itself is away: what calls itself by its name is another registered node."""
    settings = settings_with(keys)
    rule = r"client 'planted-0-0': its node has the key SHA256:\S+, which is not this client's \(flower.client_keys\)"
    with pytest.raises(ConfigError, match=rule):
        FedLeaseStrategy(settings, tmp_path / "r").start(grid_with(keys, settings, planted_0_0=impostor))
    assert not (tmp_path / "r/summary.json").exists()


def test_a_node_without_a_key_takes_no_part_where_keys_are_known(keys: Path, tmp_path: Path) -> None:
    settings = settings_with(keys)
    with pytest.raises(ConfigError, match="client 'planted-0-0': its node has no key"):
        FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))


def test_without_known_keys_a_client_keeps_the_key_that_it_began_with(keys: Path, tmp_path: Path) -> None:
    settings = small_settings(rounds=2, flower__client_keys=None)
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "r", [stop_after(1)]).start(grid_with(keys, settings))
    for grid, has in ((grid_with(keys, settings, planted_0_0="stranger"), "SHA256:"), (grid_of(settings), "none")):
        with pytest.raises(
            ConfigError, match=f"'planted-0-0' came back with another key than the run began with: {has}"
        ):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)
    FedLeaseStrategy(settings, tmp_path / "r").start(grid_with(keys, settings))


def test_nodes_are_not_told_where_the_server_has_its_keys(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flower.hostile import recorded

    settings = settings_with(keys)
    found = recorded(monkeypatch, CLIENTS[0])
    FedLeaseStrategy(settings, tmp_path / "r").start(grid_with(keys, settings))
    assert found and not any(str(keys) in message.settings for _, message in found)


def test_an_introduction_is_worth_nothing_elsewhere(keys: Path) -> None:
    """Of another run, on another node, for another client, with another signature or without one."""
    own = {print_of(keys, "clinic-a"): "clinic-a", print_of(keys, CLIENTS[0]): CLIENTS[0]}
    good = introduced(CARD, RUN, 7, keys / "clinic-a")
    assert identified(good, RUN, 7, own) == (print_of(keys, "clinic-a"), "")
    assert identified(good, RUN, 7, None) == (print_of(keys, "clinic-a"), "")
    theirs = introduced(CARD, RUN, 7, keys / CLIENTS[0])
    stolen = replace(theirs, key=good.key)
    for found, run, node in (
        (good, RUN[::-1], 7),
        (good, RUN, 8),
        (replace(good, card=replace(CARD, id=CLIENTS[0])), RUN, 7),
        (stolen, RUN, 7),
        (replace(good, signature=""), RUN, 7),
        (replace(good, signature="?"), RUN, 7),
        (replace(good, signature=base64.b64encode(b"x" * 100).decode()), RUN, 7),
        (replace(good, key="ssh-rsa AAAA"), RUN, 7),
    ):
        name = found.card.id
        assert identified(found, run, node, own) == (
            "",
            f"client {name!r}: its introduction is not signed by the key in it",
        )
    assert "which is not this client's" in identified(theirs, RUN, 7, own)[1]
    assert "one line of at most 1000" in identified(replace(good, key="x\ny"), RUN, 7, own)[1]
    assert introduced(CARD, RUN, 7, None) == replace(good, key="", signature="")


def test_a_key_that_cannot_be_read_is_the_nodes_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node-config: key: '.*none' cannot be read"):
        introduced(CARD, RUN, 7, tmp_path / "none")
