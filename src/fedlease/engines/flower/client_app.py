"""The Flower app of a client: ten lines in a user's project, everything else is here."""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedlease.config import Settings
from fedlease.core.codec import digest
from fedlease.data import load_federation
from fedlease.data.federation import ClientData, Federation
from fedlease.data.folder import load_client
from fedlease.engines.flower.keep import FolderKeep, MemoryKeep
from fedlease.engines.flower.node import Node, Site, refusal_of, settings_from
from fedlease.engines.flower.records import Lacking, RecordError, Refusal, pack, unpack
from fedlease.errors import ConfigError, DataError, InputError
from fedlease.methods.base import PHASES

__all__ = ["LoadClient", "client_app", "rows_of_node", "run_key"]

LoadClient = Callable[[Context, Settings], ClientData]
"""Gives the rows of the client that a node is; the context has its ``node_config``."""

MAX_BYTES = 64 * 2**30
"""A node believes its server; this is only a bound."""

HELD = "held"
OVERRIDES = ("model", "device", "threads")
log = logging.getLogger("flwr")
# One resident model per process: two messages at once would swap each other's adapters.
_one_at_a_time = threading.Lock()


def client_app(load: LoadClient | None = None, mods: Sequence[Any] = (), state_dir: Path | None = None) -> ClientApp:
    """A ClientApp that trains and scores one client; one process may serve several, one after another.

    Node configuration: ``data-dir``, the client's folder with train and test files, and ``client-id`` where its name
    is not the folder's; ``state-dir``, a folder in which private tensors outlive the SuperNode; ``model``, ``device``,
    ``threads`` where they differ from the server's. In a simulation ``partition-id`` picks the client from the
    federation of the settings.

    Args:
        load: gives the client's rows; None reads them as the node configuration says.
        mods: of Flower, around every message.
        state_dir: where private tensors are kept by nodes whose configuration names no ``state-dir``; None keeps them
            in memory.

    Raises:
        ConfigError: a mod that would be passed over in silence.
    """
    for mod in mods:
        name = getattr(mod, "__name__", type(mod).__name__)
        if "secagg" in name.lower():
            raise ConfigError(
                f"mods: {name} masks only messages of type 'train', which fedlease does not send, so updates would go "
                "out unmasked; and the allocation compares every client's B, which a masked sum does not show"
            )
    app = ClientApp(mods=list(mods))
    handle = partial(_handle, load=load or rows_of_node, state_dir=state_dir)
    for phase in PHASES:
        app.train(phase)(handle)
    for action in ("score", "finish"):
        app.evaluate(action)(handle)
    app.query("hello")(handle)
    app.query("turned_away")(_turned_away)
    return app


def _handle(message: Message, context: Context, *, load: LoadClient, state_dir: Path | None) -> Message:
    # A function of the module, so that a simulation can hand the app to its workers.
    with _one_at_a_time:
        return Message(_answer(message.content, context, load, state_dir), reply_to=message)


def rows_of_node(context: Context, settings: Settings) -> ClientData:
    """The rows that the node configuration points to.

    Raises:
        ConfigError: it points to none.
        DataError: every fault of the rows.
    """
    config = context.node_config
    if "data-dir" in config:
        folder = Path(str(config["data-dir"])).expanduser()
        if not folder.exists():
            raise DataError(f"data-dir: {str(folder)!r} does not exist on this node")
        client = str(config.get("client-id", folder.resolve().name))
        return load_client(folder, client, settings.data, settings.seed, settings.task)
    if "partition-id" not in config:
        raise ConfigError("node-config: needs data-dir (and client-id), the folder of this node's rows")
    federation = _federation(settings.model_dump_json())
    number, count = int(config["partition-id"]), int(config.get("num-partitions", len(federation)))
    if count != len(federation):
        raise ConfigError(f"num-supernodes: is {count}, the federation of the settings has {len(federation)} clients")
    return list(federation)[number]


@lru_cache(maxsize=1)
def _federation(settings: str) -> Federation:
    read = settings_from(settings)
    return load_federation(read.data, read.seed, read.task)


@lru_cache(maxsize=1)
def _site(settings: str, overrides: tuple[tuple[str, Any], ...]) -> Site:
    return Site.of(settings_from(settings), dict(overrides))


def _answer(content: RecordDict, context: Context, load: LoadClient, state_dir: Path | None) -> RecordDict:
    keep = MemoryKeep(context.state)
    bank = keep.get(HELD) or {}
    try:
        value, arrays, lacking = unpack(content, MAX_BYTES, bank)
        if lacking:
            return pack(Lacking(lacking)).record
        node = _node(value, context, load, state_dir)
        reply = node.reply(value)
    except RecordError as error:
        reply = Refusal(str(error))
    except InputError as error:
        reply = refusal_of(error)
    else:
        if arrays:
            keep.put(HELD, arrays)
    if isinstance(reply, Refusal):
        log.error("fedlease: %s", reply.reason)
    return pack(reply).record


def _node(value: Any, context: Context, load: LoadClient, state_dir: Path | None) -> Node:
    settings = getattr(value, "settings", None)
    if not isinstance(settings, str):
        raise ConfigError("the message holds no settings: is the server's fedlease another version?")
    overrides = tuple((name, context.node_config[name]) for name in OVERRIDES if name in context.node_config)
    site = _site(settings, overrides)
    data = load(context, site.loaded.settings)
    folder = (
        Path(str(context.node_config["state-dir"])).expanduser() if "state-dir" in context.node_config else state_dir
    )
    if folder is None:
        return Node(site, data, MemoryKeep(context.state))
    return Node(site, data, FolderKeep(folder / run_key(settings_from(settings)) / data.id))


def run_key(settings: Settings) -> str:
    """What a run is called on its nodes: the same when the server is restarted, whatever Flower calls it."""
    content = settings.model_dump(mode="json", exclude={"flower": True, "fedlease": {"admitted", "unlike"}})
    return digest(json.dumps(content, sort_keys=True).encode())[:16]


def _turned_away(message: Message, context: Context) -> Message:
    value, _, _ = unpack(message.content, MAX_BYTES)
    log.error("fedlease: the server does not take this node: %s", getattr(value, "reason", "no reason given"))
    return Message(RecordDict(), reply_to=message)
