"""Writes a ready Flower app for ``fedlease new`` from templates and sample rows.

The app's code belongs in the templates, and is not run here.
"""

import ipaddress
import re
import string
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedlease.config.data import DataSettings
from fedlease.data.reading.examples import client_id_fault, folded
from fedlease.data.sources import synthetic
from fedlease.data.sources.folder import write_folder
from fedlease.errors import ConfigError
from fedlease.files import write_atomically

__all__ = ["CLIENTS", "write_app"]

CLIENTS = ("site-a", "site-b", "site-c")
"""Clients of an app if none are named."""

OF_A_NODE = "node.yaml.j2"
"""Template of the node's rules, which are written beside the rows of every client."""

LAST_PORT = 65535
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_SHELL_SAFE = set(string.ascii_letters + string.digits + "._-")


def write_app(folder: Path, clients: Sequence[str] = CLIENTS, host: str = "localhost", port: int = 8000) -> None:
    """Writes a Flower app: code of server and client, settings, sample rows, and a README with every command.

    Args:
        folder: a new or empty folder; its name becomes the app's.
        clients: ids of at least two clients, which appear in shell commands.
        host: name or address under which clients reach the server.
        port: port of the server; the next one is for its SuperLink on the loopback address, and the following ones are
            for the clients, each on its own machine.

    Raises:
        ConfigError: the folder is not empty, or values cannot be used; the error has every fault.
    """
    faults = _faults(folder, clients, host, port)
    if faults:
        raise ConfigError(faults)
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "federation"
    # The suffix avoids the names of imported packages, such as flower.
    package = f"{name.removesuffix('-app').replace('-', '_')}_app"
    values: dict[str, Any] = {
        "name": name,
        # A module's name cannot begin with a digit.
        "package": package if package[0].isalpha() else f"app_{package}",
        # The SuperNodes have different ports, so that several can run on one machine.
        "machines": [{"id": client, "port": port + number} for number, client in enumerate(clients, 2)],
        "host": host,
        "port": port,
        "inner": port + 1,
        "local": host == "localhost",
        "alternative": f"{'IP' if _is_address(host) else 'DNS'}:{host}",
    }
    templates = resources.files("fedlease.flower.new_app") / "app"
    environment = Environment(
        loader=PackageLoader("fedlease.flower.new_app", "app"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for entry in sorted(templates.iterdir(), key=lambda entry: entry.name):
        if entry.name == OF_A_NODE:
            continue
        target = folder / _target(entry.name.removesuffix(".j2"), values["package"])
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, environment.get_template(entry.name).render(values).encode())
    per_task = 2 if len(clients) > 2 else 1
    data = DataSettings(source="synthetic", clients_per_task=per_task, test_rows=32)
    rows = synthetic.load(data, 0, num_tasks=(len(clients) + 1) // per_task)
    write_folder((replace(made, id=client) for made, client in zip(rows, clients, strict=False)), folder / "rows")
    rules = environment.get_template(OF_A_NODE).render(values).encode()
    for client in clients:
        write_atomically(folder / "rows" / client / OF_A_NODE.removesuffix(".j2"), rules)


def _target(name: str, package: str) -> str:
    if name == "gitignore":
        return ".gitignore"
    return f"{package}/{name}" if name.endswith(".py") else name


def _faults(folder: Path, clients: Sequence[str], host: str, port: int) -> list[str]:
    faults = []
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        faults.append(f"DIR: {str(folder)!r} exists and is not empty; choose a new folder")
    if len(clients) < 2:
        faults.append(f"--client: a federation needs at least 2 clients, got {len(clients)}")
    for client in clients:
        fault = client_id_fault(client)
        if fault is None and not (client and set(client) <= _SHELL_SAFE and not client.startswith("-")):
            fault = "stands in commands: letters, digits, '.', '_' and '-' only, and no '-' in front"
        if fault:
            faults.append(f"--client: {client!r} {fault}")
    if len({folded(client) for client in clients}) < len(clients):
        faults.append(f"--client: every client needs an id of its own, got {', '.join(clients)}")
    if not _HOST.fullmatch(host) and not _is_address(host):
        faults.append(f"--host: must be a host name or an address, got {host!r}")
    last = LAST_PORT - 1 - len(clients)
    if not 1 <= port <= last:
        faults.append(
            f"--port: must be from 1 to {last}, since SuperLink and clients use the ports after it, got {port}"
        )
    return faults


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
