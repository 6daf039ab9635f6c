"""Handles a message on a node: finds the client's rows, base model and store, and replies."""

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from pydantic import ValidationError

from fedlease.client.messages import Refused
from fedlease.client.sum_messages import SumAsk
from fedlease.config.faults import not_installed, sentences
from fedlease.config.settings import Settings, read_values
from fedlease.core.wording import counted
from fedlease.data.federation import ClientData, Federation
from fedlease.data.load import load_federation
from fedlease.data.reading.examples import client_id_fault
from fedlease.data.sources.folder import load_client
from fedlease.errors import ConfigError, DataError, InputError, RulesError
from fedlease.flower.bounds import shown
from fedlease.flower.messages import Lacking, Unusable
from fedlease.flower.node import Node, NodeRun
from fedlease.flower.node_store import FolderStore, MemoryStore, Store, check_room
from fedlease.flower.node_sums import NodeSums, Peers
from fedlease.flower.node_trail import NodeTrail
from fedlease.flower.policy import MAX_SETTINGS, MIB, NodePolicy
from fedlease.flower.privacy_budget import PrivacyBudget
from fedlease.flower.proxies import proxies_notice
from fedlease.flower.rules_file import policy_of
from fedlease.flower.validation import form_fault
from fedlease.flower.wire import RecordError, pack, unpack
from fedlease.storage.environment import is_identity

__all__ = ["handle", "read_rejection", "refusal_of", "rows_of_node"]

LoadClient = Callable[[Context, Settings], ClientData]
"""Returns the rows of the node's client; the context has the node's configuration."""

PREVIOUS_ARRAYS = "arrays of the message before"
"""Key of the previous message's arrays in the memory store; other keys are names of methods."""

OVERRIDES, NAMED = ("model", "device", "threads"), ("state-dir", "model-out", "key", "peers")

TASKS_PER_ROUND = 3
"""Most tasks of a node per allowed round: warm-ups are tasks too, and a server that was stopped repeats a step."""

log = logging.getLogger("flwr")


def rows_of_node(context: Context, settings: Settings) -> ClientData:
    """The rows that the node configuration names.

    Raises:
        ConfigError: it names none, or a folder that does not exist.
        DataError: rows are faulty; the error has every fault.
    """
    config = context.node_config
    if "data-dir" in config:
        folder = Path(str(config["data-dir"])).expanduser()
        if not folder.exists():
            raise ConfigError(f"data-dir: {str(folder)!r} does not exist on this node")
        return load_client(
            folder, _configured_id(context), settings.data, settings.seed, settings.task, on_note=log.warning
        )
    if "partition-id" not in config:
        raise ConfigError("node-config: needs data-dir (and client-id), the folder of this node's rows")
    federation = _federation(settings.model_dump_json())
    number, count = int(config["partition-id"]), int(config.get("num-partitions", len(federation)))
    if count != len(federation):
        raise ConfigError(
            f"num-supernodes: is {count}, the federation of the settings has {counted(len(federation), 'client')}"
        )
    return list(federation)[number]


def settings_from(text: str) -> Settings:
    """The settings in a message.

    Raises:
        ConfigError: they are not settings of this version, or of a method that is not installed on this node.
    """
    try:
        values = json.loads(text)
        faults = not_installed(values)
        if not faults:
            return read_values(values)
    except ValidationError as error:
        faults = sentences(error, Settings)
    except (ValueError, RecursionError) as error:
        faults = [f"{type(error).__name__} {error}"]
    raise ConfigError([f"the server's settings are not understood: {fault}" for fault in faults])


@lru_cache(maxsize=1)
def _federation(settings: str) -> Federation:
    read = settings_from(settings)
    return load_federation(read.data, read.seed, read.task)


@lru_cache(maxsize=1)
def _node_run(settings: str, overrides: tuple[tuple[str, Any], ...]) -> NodeRun:
    return NodeRun.of(settings_from(settings), dict(overrides))


def handle(
    content: RecordDict,
    context: Context,
    load: LoadClient | None,
    state_dir: Path | None,
    *,
    one_machine: bool = False,
) -> RecordDict:
    """Replies to a message.

    Args:
        content: the content of the message.
        context: the node's context, whose state stores the message's arrays.
        load: returns the client's rows; None is :func:`rows_of_node`.
        state_dir: where nodes whose configuration names no ``state-dir`` store private tensors.
        one_machine: see :func:`~fedlease.flower.clientapp.client_app`.
    """
    memory = MemoryStore(context.state)
    bank = memory.get(PREVIOUS_ARRAYS) or {}
    if not one_machine:
        _log_once(proxies_notice(os.environ))
    reply: object
    # On one machine, server and clients have one owner, who wrote the settings and needs no trail of nodes.
    trusted = one_machine or _in_simulation(context)
    client = _configured_id(context) or _name(context)
    trail = NodeTrail.of({} if trusted else context.node_config, client)
    why: Sequence[str] = ()
    try:
        policy = policy_of(context.node_config)
        value, arrays, lacking = unpack(content, policy.max_megabytes * MIB, bank)
        if lacking:
            return pack(Lacking(lacking)).record
        _check_form(value)
        trail.asked(value)
        reply = _reply(value, policy, context, load or rows_of_node, state_dir, one_machine=one_machine)
        if not trusted:
            policy.check_reply(reply)
        trail.left(value, reply)
    except RecordError as error:
        reply = Refused(str(error))
    except InputError as error:
        why = error.faults
        reply = refusal_of(error, _name(context), client=_configured_id(context), in_full=one_machine)
        if isinstance(error, DataError | RulesError) and not one_machine:
            for fault in error.faults:
                log.error("fedlease: %s", shown(fault))
    except Exception as error:
        log.exception("fedlease: the node failed")
        # The error's text may contain rows or folders.
        reason = f": {error}" if one_machine else "; the log of its node says why"
        reply = Refused(f"{_name(context)}: its app failed with {type(error).__name__}{reason}")
    else:
        if arrays:
            memory.put(PREVIOUS_ARRAYS, arrays)
    if isinstance(reply, Unusable | Refused):
        reply = replace(reply, reason=shown(reply.reason))
        log.error("fedlease: %s", reply.reason)
        trail.refused(why or [reply.reason], reply.reason)
    return pack(reply).record


def refusal_of(error: InputError, node: str, *, client: str = "", in_full: bool = False) -> Refused | Unusable:
    """Describes wrong input on a node to the server, in one sentence.

    Faults of rows contain values of rows and paths of files, so the server gets only their number; the node's log has
    them. Of the node's rules, the server gets the names of those that it breaks.

    Args:
        error: the error.
        node: the name by which the server knows the node.
        client: id of the client, if the node's configuration has one.
        in_full: whether the server gets faults of rows in full, because it is on the same machine.
    """
    if isinstance(error, RulesError):
        rules = f"rule{'' if len(error.rules) == 1 else 's'} {', '.join(error.rules)}"
        return Refused(f"{node}: refused by its node's {rules}; the log of its node says more")
    if not isinstance(error, DataError):
        return Refused("; ".join(error.faults))
    many = counted(len(error.faults), "fault")
    hidden = f"{node}: its rows cannot be used; {many}, in the log of its node"
    return Unusable(shown(client or node), "; ".join(error.faults) if in_full else hidden)


def _check_form(value: Any) -> None:
    """Checks a whole message, before any of it is used."""
    if fault := form_fault(value):
        raise RecordError(fault)
    if len(value.settings) > MAX_SETTINGS:
        raise RecordError(f"the settings have {len(value.settings)} characters, at most {MAX_SETTINGS} are taken")


def _reply(
    value: Any, policy: NodePolicy, context: Context, load: LoadClient, state_dir: Path | None, *, one_machine: bool
) -> object:
    """The client's reply to a message whose form was checked."""
    settings, config = settings_from(value.settings), context.node_config
    trusted = one_machine or _in_simulation(context)
    own_rows = "data-dir" in config or "partition-id" not in config
    if not trusted:
        policy.check(value, settings, own_model="model" in config, own_rows=own_rows)
        settings = policy.applied(settings, with_path=not own_rows)
    elif not is_identity(value.run):
        raise RecordError(f"run must be 32 hexadecimal digits, received {shown(value.run)!r}")
    named = {key: Path(str(config[key])).expanduser() for key in NAMED if key in config}
    folder = named.get("state-dir", state_dir)

    def store_of(client: str) -> Store:
        if "state-dir" in named:
            check_room(named["state-dir"], value.run, policy.max_runs)
        return MemoryStore(context.state) if folder is None else FolderStore(folder / value.run / client)

    if isinstance(value.request, SumAsk):
        if not settings.privacy.secure_sums:
            raise ConfigError("privacy.secure_sums: is false in these settings, and a secure sum was asked for")
        client = _configured_id(context) or load(context, settings).id
        if fault := client_id_fault(client):
            raise ConfigError(f"client {client!r}: {fault}")
        peers = Peers(named.get("key"), named.get("peers"))
        return NodeSums(store_of(client), value.run, client, peers).tell(value.request)
    overrides = tuple((name, config[name]) for name in OVERRIDES if name in config)
    run = _node_run(settings.model_dump_json(), overrides)
    data = load(context, run.loaded.settings)
    id_fault = client_id_fault(data.id) if data.id else "must not be empty"
    if id_fault:
        raise ConfigError(f"client {data.id!r}: {id_fault}")
    if not trusted:
        policy.check_client(settings.lora.of(data.id), data.labels)
    if settings.privacy.epsilon is not None and not trusted:
        PrivacyBudget(folder, policy).admit(value, data.id, settings.privacy)
    models = named.get("model-out")
    # ``state_dir`` is no place for models: a simulation deletes it, and its run folder has every model.
    if models is None and "state-dir" in named:
        models = named["state-dir"] / value.run / data.id / "model"
    node = Node(
        run,
        data,
        store_of(data.id),
        models,
        send_samples=one_machine or policy.send_samples,
        share_private=one_machine,
        secret=not trusted,
        max_tasks=None if trusted else TASKS_PER_ROUND * policy.max_rounds,
        number=context.node_id,
        key=named.get("key"),
        max_bytes=policy.max_megabytes * MIB,
    )
    return node.reply(value)


def _in_simulation(context: Context) -> bool:
    """Whether this is a worker process of Flower's simulation, whose nodes all have one owner."""
    ray = sys.modules.get("ray")
    if ray is None or not {*context.node_config} <= {"partition-id", "num-partitions"}:
        return False
    return bool(ray.is_initialized() and ray.get_runtime_context().get_actor_id())


@lru_cache(maxsize=1)
def _log_once(line: str) -> None:
    # The cache suppresses repetitions in one process.
    if line:
        log.warning("fedlease: %s", line)


def _configured_id(context: Context) -> str:
    """The id of the client that a node's configuration names; empty if it names none."""
    config = context.node_config
    if "client-id" in config:
        return str(config["client-id"])
    return Path(str(config["data-dir"])).expanduser().resolve().name if "data-dir" in config else ""


def _name(context: Context) -> str:
    """The name by which the server may know a node before its introduction."""
    config = context.node_config
    if client := _configured_id(context):
        return f"client {client!r}"
    return f"partition {config['partition-id']}" if "partition-id" in config else f"node {context.node_id}"


def read_rejection(content: RecordDict) -> RecordDict:
    """Logs why the server rejects this node."""
    try:
        reason = getattr(unpack(content, MIB)[0], "reason", "no reason given")
    except RecordError as error:
        reason = str(error)
    log.error("fedlease: the server does not take this node: %s", shown(reason))
    return RecordDict()
