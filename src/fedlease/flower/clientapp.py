"""The Flower app of a client, which a user's project creates with one call.

In a deployment Flower imports this module for every message. So slow imports, such as torch, happen only if the message
is handled in this process.
"""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedlease.errors import ConfigError

if TYPE_CHECKING:
    from fedlease.flower.handler import LoadClient

__all__ = ["client_app"]

# A process has one resident model: two messages at once would replace each other's adapters.
_one_at_a_time = threading.Lock()


def client_app(
    load: "LoadClient | None" = None,
    mods: Sequence[Any] = (),
    state_dir: Path | None = None,
    *,
    one_machine: bool = False,
) -> ClientApp:
    """A ClientApp that trains and scores one client; one process may serve several, one after another.

    Node configuration: ``data-dir``, the client's folder with train and test files; ``client-id``, if it is not the
    folder's name; ``state-dir``, a folder in which private tensors outlive the SuperNode; ``model-out``, a folder for
    the client's own models, by default in ``state-dir``; ``key``, the file with the SuperNode's private key;
    ``model``, ``device``, ``threads``, if they differ from the server's; ``keep-loaded``, seconds for which a process
    with the base model stays after a message, see ``worker_process.py``; and the rules of ``policy.py``. In a
    simulation ``partition-id`` picks the client from the federation of the settings.

    Args:
        load: returns the client's rows; None reads them as the node configuration says.
        mods: Flower mods, which wrap the handling of every message.
        state_dir: where nodes whose configuration names no ``state-dir`` store private tensors; None stores them in
            memory.
        one_machine: whether server and clients are on one machine of one owner, as in a simulation, so that the server
            may receive samples of test rows, private tensors and faults of rows in full when it asks for them.

    Raises:
        ConfigError: a mod would have no effect.
    """
    for mod in mods:
        name = getattr(mod, "__name__", type(mod).__name__)
        if "secagg" in name.lower():
            raise ConfigError(
                f"mods: {name} masks only messages of type 'train', which fedlease does not send, so updates would go "
                "out unmasked; privacy.secure_sums masks those of the rounds"
            )
    app = ClientApp(mods=list(mods))
    handle = partial(_handle, load=load, state_dir=state_dir, one_machine=one_machine)
    app.train("task")(handle)
    for action in ("score", "finish"):
        app.evaluate(action)(handle)
    for action in ("hello", "sum"):
        app.query(action)(handle)
    app.query("rejected")(_rejected)
    return app


def _handle(
    message: Message, context: Context, *, load: "LoadClient | None", state_dir: Path | None, one_machine: bool
) -> Message:
    # A module-level function, so that a simulation can send the app to its workers.
    seconds: Any = context.node_config.get("keep-loaded", 0)
    # A simulation's workers stay loaded anyway. The policy refuses invalid values.
    if type(seconds) in (int, float) and 0 < seconds < float("inf") and not one_machine:
        from fedlease.flower.worker_process import ask, worker_of

        worker = worker_of(load, state_dir, float(seconds))
        if worker is not None:
            return Message(ask(worker, message.content, context), reply_to=message)
    from fedlease.flower.handler import handle

    with _one_at_a_time:
        return Message(handle(message.content, context, load, state_dir, one_machine=one_machine), reply_to=message)


def _rejected(message: Message, context: Context) -> Message:
    from fedlease.flower.handler import read_rejection

    return Message(read_rejection(message.content), reply_to=message)
