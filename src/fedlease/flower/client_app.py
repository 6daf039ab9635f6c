"""The Flower app of a client: ten lines in a user's project, everything else is here.

In a deployment this module is imported for every message, so what takes long, such as torch, is imported when a message
is answered in this very process.
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

# One resident model per process: two messages at once would swap each other's adapters.
_one_at_a_time = threading.Lock()


def client_app(
    load: "LoadClient | None" = None,
    mods: Sequence[Any] = (),
    state_dir: Path | None = None,
    *,
    one_machine: bool = False,
) -> ClientApp:
    """A ClientApp that trains and scores one client; one process may serve several, one after another.

    Node configuration: ``data-dir``, the client's folder with train and test files, and ``client-id`` where its name
    is not the folder's; ``state-dir``, a folder in which private tensors outlive the SuperNode; ``model-out``, a folder
    for the client's own models, by default in ``state-dir``; ``model``, ``device``, ``threads`` where they differ from
    the server's; ``send-samples``, true where some test rows may go to the server in clear text, with the models'
    answers; ``keep-loaded``, seconds for which a process with the base model stays when no message comes, see
    ``worker_process.py``. In a simulation ``partition-id`` picks the client from the federation of the settings.

    Args:
        load: gives the client's rows; None reads them as the node configuration says.
        mods: of Flower, around every message.
        state_dir: where private tensors are kept by nodes whose configuration names no ``state-dir``; None keeps them
            in memory.
        one_machine: server and clients are one machine and one owner, as in a simulation: samples of test rows, private
            tensors and the faults of rows in full may go to the server when it asks for them.

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
    handle = partial(_handle, load=load, state_dir=state_dir, one_machine=one_machine)
    app.train("task")(handle)
    for action in ("score", "finish"):
        app.evaluate(action)(handle)
    app.query("hello")(handle)
    app.query("turned_away")(_turned_away)
    return app


def _handle(
    message: Message, context: Context, *, load: "LoadClient | None", state_dir: Path | None, one_machine: bool
) -> Message:
    # A function of the module, so that a simulation can hand the app to its workers.
    seconds: Any = context.node_config.get("keep-loaded", 0)
    # A process that stays is for deployments; a simulation's workers stay anyway. Odd values are refused by the policy.
    if type(seconds) in (int, float) and 0 < seconds < float("inf") and not one_machine:
        from fedlease.flower.worker_process import ask, worker_of

        worker = worker_of(load, state_dir, float(seconds))
        if worker is not None:
            return Message(ask(worker, message.content, context), reply_to=message)
    from fedlease.flower.handler import answer

    with _one_at_a_time:
        return Message(answer(message.content, context, load, state_dir, one_machine=one_machine), reply_to=message)


def _turned_away(message: Message, context: Context) -> Message:
    from fedlease.flower.handler import turned_away

    return Message(turned_away(message.content), reply_to=message)
