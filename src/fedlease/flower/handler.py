"""What a client answers to a message: finds its rows, its base model and what it keeps, and lets the node reply."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from fedlease.config.settings import Settings
from fedlease.core.wording import counted
from fedlease.data.federation import ClientData, Federation
from fedlease.data.load import load_federation
from fedlease.data.reading.examples import client_id_fault
from fedlease.data.sources.folder import load_client
from fedlease.errors import ConfigError, DataError, InputError
from fedlease.flower.bounds import shown
from fedlease.flower.messages import Lacking, Refusal
from fedlease.flower.node import Consent, Node, refusal_of
from fedlease.flower.node_store import FolderKeep, MemoryKeep
from fedlease.flower.policy import MAX_SETTINGS, NodePolicy
from fedlease.flower.site import Site, settings_from
from fedlease.flower.validation import form_fault
from fedlease.flower.wire import RecordError, pack, unpack
from fedlease.storage.run_identity import is_identity

__all__ = ["answer", "proxies_said", "rows_of_node", "turned_away"]

LoadClient = Callable[[Context, Settings], ClientData]
"""Gives the rows of the client that a node is; the context has the node's configuration."""

HELD = "held"
OVERRIDES = ("model", "device", "threads")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
MIB = 2**20

ASKED_AGAIN = 3
"""Times as many tasks as rounds: a server that was stopped asks for a step again, and warm-ups come on top."""
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
        client = _client_id(context)
        return load_client(folder, client, settings.data, settings.seed, settings.task, tell=log.warning)
    if "partition-id" not in config:
        raise ConfigError("node-config: needs data-dir (and client-id), the folder of this node's rows")
    federation = _federation(settings.model_dump_json())
    number, count = int(config["partition-id"]), int(config.get("num-partitions", len(federation)))
    if count != len(federation):
        raise ConfigError(
            f"num-supernodes: is {count}, the federation of the settings has {counted(len(federation), 'client')}"
        )
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
        one_machine: see :func:`~fedlease.flower.client_app.client_app`.
    """
    keep = MemoryKeep(context.state)
    bank = keep.get(HELD) or {}
    if not one_machine:
        _tell_proxies(proxies_said(os.environ))
    try:
        policy = NodePolicy.of(context.node_config)
        value, arrays, lacking = unpack(content, policy.max_megabytes * MIB, bank)
        if lacking:
            return pack(Lacking(lacking)).record
        node = _node(value, policy, context, load or rows_of_node, state_dir, one_machine=one_machine)
        reply = node.reply(value)
    except RecordError as error:
        reply = Refusal(str(error))
    except InputError as error:
        reply = refusal_of(error, _name(context), client=_configured_id(context), in_full=one_machine)
        if isinstance(error, DataError) and not one_machine:
            for fault in error.faults:
                log.error("fedlease: %s", shown(fault))
    except Exception as error:
        log.exception("fedlease: the node failed")
        # Its text may show rows or folders.
        why = f": {error}" if one_machine else "; the log of its node says why"
        reply = Refusal(f"{_name(context)}: its app failed with {type(error).__name__}{why}")
    else:
        if arrays:
            keep.put(HELD, arrays)
    if isinstance(reply, Refusal):
        reply = Refusal(shown(reply.reason), shown(reply.unusable))
        log.error("fedlease: %s", reply.reason)
    return pack(reply).record


def _node(
    value: Any, policy: NodePolicy, context: Context, load: LoadClient, state_dir: Path | None, *, one_machine: bool
) -> Node:
    """The client as it is for one message, which is looked at whole before anything of it is used."""
    if fault := form_fault(value):
        raise RecordError(fault)
    if len(value.settings) > MAX_SETTINGS:
        raise RecordError(f"the settings have {len(value.settings)} characters, at most {MAX_SETTINGS} are taken")
    settings, config = settings_from(value.settings), context.node_config
    # Server and client are one owner there, and the settings are the owner's.
    trusted = one_machine or _in_simulation(context)
    own_rows = "data-dir" in config or "partition-id" not in config
    if not trusted:
        faults = policy.faults(value, settings, own_model="model" in config, own_rows=own_rows)
        if faults:
            raise ConfigError([f"{_name(context)}: {fault}" for fault in faults])
        settings = policy.applied(settings, with_path=not own_rows)
    elif not is_identity(value.run):
        raise RecordError(f"run must be 32 hexadecimal digits, received {shown(value.run)!r}")
    overrides = tuple((name, config[name]) for name in OVERRIDES if name in config)
    site = _site(settings.model_dump_json(), overrides)
    data = load(context, site.loaded.settings)
    named_wrongly = client_id_fault(data.id) if data.id else "must not be empty"
    if wrong := named_wrongly or ("" if trusted else policy.labels_fault(data.labels)):
        raise ConfigError(f"client {data.id!r}: {wrong}")
    own = f"{value.run}/{data.id}"
    named = {key: Path(str(config[key])).expanduser() for key in ("state-dir", "model-out") if key in config}
    if "state-dir" in named:
        _check_room(named["state-dir"], value.run, policy.max_runs)
    folder = named.get("state-dir", state_dir)
    keep = MemoryKeep(context.state) if folder is None else FolderKeep(folder / own)
    models = named.get("model-out")
    # Not under the app's own ``state_dir``: that of a simulation is deleted, and its run folder has every model.
    if models is None and "state-dir" in named:
        models = named["state-dir"] / own / "model"
    consent = Consent(samples=one_machine or policy.send_samples, private=one_machine)
    return Node(site, data, keep, models, consent, None if trusted else ASKED_AGAIN * policy.max_rounds)


def _check_room(state_dir: Path, run: str, most: int) -> None:
    """A server that begins run after run must not fill the disk; what was kept is the node's owner's to delete."""
    if (state_dir / run).exists() or not state_dir.is_dir():
        return
    runs = sum(is_identity(entry.name) for entry in state_dir.iterdir())
    if runs >= most:
        raise ConfigError(
            f"state-dir: it holds what was kept for {runs} runs, max-runs of this node is {most}; delete the folders "
            "of runs that are over"
        )


def _in_simulation(context: Context) -> bool:
    """Whether this is a worker process of Flower's simulation, where no node has an owner of its own."""
    ray = sys.modules.get("ray")
    if ray is None or not {*context.node_config} <= {"partition-id", "num-partitions"}:
        return False
    return bool(ray.is_initialized() and ray.get_runtime_context().get_actor_id())


def proxies_said(environment: Mapping[str, str]) -> str:
    """One line where proxy variables are set, without their values, which may hold passwords; else empty."""
    named = sorted(name for name in environment if name.lower() in PROXIES and environment[name])
    if not named:
        return ""
    return (
        f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} set: this node reaches its server, and its own "
        "SuperNode, through that proxy unless NO_PROXY names them, as in NO_PROXY=127.0.0.1,localhost,SERVER"
    )


@lru_cache(maxsize=1)
def _tell_proxies(line: str) -> None:
    # Once per process: the cache remembers that it was said.
    if line:
        log.warning("fedlease: %s", line)


def _configured_id(context: Context) -> str:
    """The client that a node's configuration names; empty where it names none."""
    return _client_id(context) if context.node_config.keys() & {"client-id", "data-dir"} else ""


def _name(context: Context) -> str:
    """What the server may know a node by that has not said who it is."""
    config = context.node_config
    if client := _configured_id(context):
        return f"client {client!r}"
    return f"partition {config['partition-id']}" if "partition-id" in config else f"node {context.node_id}"


def turned_away(content: RecordDict) -> RecordDict:
    """Says why the server does not take this node."""
    try:
        reason = getattr(unpack(content, MIB)[0], "reason", "no reason given")
    except RecordError as error:
        reason = str(error)
    log.error("fedlease: the server does not take this node: %s", shown(reason))
    return RecordDict()
