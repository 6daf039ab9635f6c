"""What a client answers to a message: finds its rows, its base model and what it keeps, and lets the node reply."""

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from fedlease.config import OF_A_CALL, Settings
from fedlease.core.codec import digest
from fedlease.data import load_federation
from fedlease.data.federation import ClientData, Federation
from fedlease.data.folder import load_client
from fedlease.engines.flower.clientapp import LoadClient, keep_loaded
from fedlease.engines.flower.keep import FolderKeep, MemoryKeep
from fedlease.engines.flower.node import Consent, Node, Site, refusal_of, settings_from
from fedlease.engines.flower.records import Lacking, RecordError, Refusal, pack, unpack
from fedlease.errors import ConfigError, DataError, InputError

__all__ = ["answer", "rows_of_node", "run_key", "turned_away"]

MAX_BYTES = 64 * 2**30
"""A node believes its server; this is only a bound."""

HELD = "held"
OVERRIDES = ("model", "device", "threads")
log = logging.getLogger("flwr")


def rows_of_node(context: Context, settings: Settings) -> ClientData:
    """The rows that the node configuration points to.

    Raises:
        ConfigError: it points to none, or to a folder that is not there.
        DataError: every fault of the rows.
    """
    config = context.node_config
    if "data-dir" in config:
        folder = _data_dir(context)
        if not folder.exists():
            raise ConfigError(f"data-dir: {str(folder)!r} does not exist on this node")
        return load_client(folder, _client_id(context), settings.data, settings.seed, settings.task)
    if "partition-id" not in config:
        raise ConfigError("node-config: needs data-dir (and client-id), the folder of this node's rows")
    federation = _federation(settings.model_dump_json())
    number, count = int(config["partition-id"]), int(config.get("num-partitions", len(federation)))
    if count != len(federation):
        raise ConfigError(f"num-supernodes: is {count}, the federation of the settings has {len(federation)} clients")
    return list(federation)[number]


def _data_dir(context: Context) -> Path:
    return Path(str(context.node_config["data-dir"])).expanduser()


def _client_id(context: Context) -> str:
    """Of a node with a folder of rows."""
    config = context.node_config
    return str(config["client-id"]) if "client-id" in config else _data_dir(context).resolve().name


@lru_cache(maxsize=1)
def _federation(settings: str) -> Federation:
    read = settings_from(settings)
    return load_federation(read.data, read.seed, read.task)


@lru_cache(maxsize=1)
def _site(settings: str, overrides: tuple[tuple[str, Any], ...]) -> Site:
    return Site.of(settings_from(settings), dict(overrides))


def answer(
    content: RecordDict,
    context: Context,
    load: LoadClient | None,
    state_dir: Path | None,
    *,
    one_machine: bool = False,
) -> RecordDict:
    """The reply to a message.

    Args:
        content: of the message.
        context: of the node; its state keeps arrays that came with it.
        load: gives the client's rows; None is :func:`rows_of_node`.
        state_dir: where private tensors are kept by nodes whose configuration names no ``state-dir``.
        one_machine: see :func:`~fedlease.engines.flower.clientapp.client_app`.
    """
    keep = MemoryKeep(context.state)
    bank = keep.get(HELD) or {}
    try:
        value, arrays, lacking = unpack(content, MAX_BYTES, bank)
        if lacking:
            return pack(Lacking(lacking)).record
        keep_loaded(context.node_config)
        node = _node(value, context, load or rows_of_node, state_dir, one_machine=one_machine)
        reply = node.reply(value)
    except RecordError as error:
        reply = Refusal(str(error))
    except InputError as error:
        reply = refusal_of(error, _name(context), in_full=one_machine)
        if isinstance(error, DataError) and not one_machine:
            for fault in error.faults:
                log.error("fedlease: %s", fault)
    except Exception as error:
        log.exception("fedlease: the node failed")
        # Its text may show rows or folders.
        why = f": {error}" if one_machine else "; the log of its node says why"
        reply = Refusal(f"{_name(context)}: its app failed with {type(error).__name__}{why}")
    else:
        if arrays:
            keep.put(HELD, arrays)
    if isinstance(reply, Refusal):
        log.error("fedlease: %s", reply.reason)
    return pack(reply).record


def _node(value: Any, context: Context, load: LoadClient, state_dir: Path | None, *, one_machine: bool) -> Node:
    settings = getattr(value, "settings", None)
    if not isinstance(settings, str):
        raise ConfigError("the message holds no settings: is the server's fedlease another version?")
    consent = Consent(samples=one_machine or _sends_samples(context), private=one_machine)
    overrides = tuple((name, context.node_config[name]) for name in OVERRIDES if name in context.node_config)
    site = _site(settings, overrides)
    data = load(context, site.loaded.settings)
    config, own = context.node_config, f"{run_key(settings_from(settings))}/{data.id}"
    named = {key: Path(str(config[key])).expanduser() for key in ("state-dir", "model-out") if key in config}
    folder = named.get("state-dir", state_dir)
    keep = MemoryKeep(context.state) if folder is None else FolderKeep(folder / own)
    models = named.get("model-out")
    # Not under the app's own ``state_dir``: that of a simulation is deleted, and its run folder has every model.
    if models is None and "state-dir" in named:
        models = named["state-dir"] / own / "model"
    return Node(site, data, keep, models, consent)


def _sends_samples(context: Context) -> bool:
    given = context.node_config.get("send-samples", False)
    if not isinstance(given, bool):
        raise ConfigError(f"send-samples: must be true or false, received {given!r}")
    return given


def _name(context: Context) -> str:
    """What the server may know a node by that has not said who it is."""
    config = context.node_config
    if config.keys() & {"client-id", "data-dir"}:
        return f"client {_client_id(context)!r}"
    return f"partition {config['partition-id']}" if "partition-id" in config else f"node {context.node_id}"


def run_key(settings: Settings) -> str:
    """What a run is called on its nodes: the same when the server is restarted, whatever Flower calls it."""
    content = settings.model_dump(mode="json", exclude=OF_A_CALL)
    return digest(json.dumps(content, sort_keys=True).encode())[:16]


def turned_away(content: RecordDict) -> RecordDict:
    """Says why the server does not take this node."""
    value, _, _ = unpack(content, MAX_BYTES)
    log.error("fedlease: the server does not take this node: %s", getattr(value, "reason", "no reason given"))
    return RecordDict()
