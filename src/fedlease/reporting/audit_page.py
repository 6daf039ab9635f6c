"""Renders an audit trail as a page for data protection officers: participants, data sent, refusals and protection."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlease.core.types import TensorName
from fedlease.core.wording import counted, printable
from fedlease.reporting.formats import human_bytes
from fedlease.reporting.tables import Cell, Table

__all__ = ["audit_page"]

Lines = Sequence[Mapping[str, Any]]

KINDS = {"A": "LoRA A", "B": "LoRA B", "G": "router", "dA": "gradient of A", "dB": "gradient of B", "mean": "anchor"}

HELD = {
    "card": "row counts, labels",
    "scores": "one score per test row",
    "keys and shares of a sum": "public keys, sealed shares of secrets",
    "masked update": "tensors, which can be read in the sum alone",
    "unmasking of a sum": "shares that take the masks off the sum",
}
"""Kind of data that left a node, other than readable tensors -> its content; other kinds are scores."""


def audit_page(folder: Path, lines: Lines) -> str:
    """Renders the page in Markdown, from the lines of a verified trail.

    Args:
        folder: folder of the run, or of a node.
        lines: lines of its trail.
    """
    first, last = lines[0], lines[-1]
    own = any(line["kind"] in ("asked", "left") for line in lines)
    begun = [line for line in lines if line["kind"] == "began"]
    page = [
        f"# Audit of {printable(folder.resolve().name)}",
        "",
        f"{counted(len(lines), 'line')}, unbroken, from {first['at']} to {last['at']}. Last hash: `{last['sha256']}`. "
        "Lines cut off at the end leave a whole chain: compare this hash with the one that you noted (--head).",
        "",
    ]
    for line in begun:
        what = "resumed" if line.get("resumed") else "began"
        page.append(
            f"- {line['at']}: {what} with fedlease {line['fedlease']}, method {line['method']}, model "
            f"{printable(line['model'])}, settings SHA-256 `{line['settings_sha256'][:16]}...`"
        )
    back = [line for line in lines if line["kind"] == "went back"]
    page += [
        f"- {line['at']}: back to round {line['to']}, left out: {printable(', '.join(line['without'])) or 'nobody'}"
        for line in back
    ]
    page += [*_asked(lines), "", *_left(lines), ""] if own else ["", _protection(lines), "", *_clients(lines), ""]
    page += _trouble(lines)
    return "\n".join(page).rstrip("\n") + "\n"


def _protection(lines: Lines) -> str:
    """Lists the measures that keep the server from reading clients' rows out of their updates."""
    begun = [line for line in lines if line["kind"] == "began"]
    noise = sorted({_promise(line.get("epsilon"), line.get("delta")) for line in begun}) or [_promise(None, None)]
    said = f"Differential privacy: {'; at another beginning '.join(noise)}."
    single = [line for line in lines if line["kind"] == "received" and line["bytes"] > 0]
    sketches = sum(line.get("sketch", False) for line in single)
    updates = [counted(len(single) - sketches, "update")] if len(single) > sketches or not sketches else []
    alone = " and ".join([*updates, *([counted(sketches, "sketch", "sketches")] if sketches else [])])
    summed = sum(line["kind"] == "summed" for line in lines)
    sums = "Secure sums: none, the server reads every update."
    if summed:
        least = min(line["clients"] for line in lines if line["kind"] == "summed")
        sums = (
            f"Secure sums: {counted(summed, 'update')} came masked, and the server read only sums, each of {least} "
            f"clients or more; {alone}, of warm-ups, it read one by one."
        )
    return f"{said} {sums} The page on security says what that means."


def _promise(epsilon: float | None, delta: float | None) -> str:
    if epsilon is None:
        return "none (epsilon is not bounded)"
    return f"epsilon {epsilon:g} at delta {delta:g} for every train row of a client, over all that it trains"


def _clients(lines: Lines) -> list[str]:
    """Tabulates the participants with the data that each was sent and has sent."""
    layouts = {line["layout"]: line["shapes"] for line in lines if line["kind"] == "layout"}
    cards = {line["client"]: line for line in lines if line["kind"] == "joined"}
    rows = []
    for client in sorted({line["client"] for line in lines if "client" in line}):
        own = [line for line in lines if line.get("client") == client]
        sent, received = ([line for line in own if line["kind"] == kind] for kind in ("sent", "received"))
        summed = [line for line in own if line["kind"] == "summed"]
        kinds = sorted(
            {
                _kind(name)
                for line in received + summed
                for name in layouts.get(line["layout"], ())
                if not line.get("sketch")
            }
            | {"sketch" for line in received if line.get("sketch")}
        )
        card = cards.get(client, {})
        rows.append(
            (
                Cell(printable(client)),
                Cell(str(card.get("train_rows", ""))),
                Cell(f"{len(sent)}, {human_bytes(sum(line['bytes'] for line in sent))}"),
                Cell(f"{len(received)}, {human_bytes(sum(line['bytes'] for line in received))}"),
                Cell(str(len(summed))),
                Cell(", ".join(kinds) or "nothing"),
                Cell(_spent(received + summed)),
            )
        )
    about = ("updates it sent", "masked ones", "what these held", "epsilon spent")
    header = ("client", "train rows", "models sent to it", *about)
    return ["What each client was sent and sent:", "", *Table("", header, tuple(rows)).markdown()]


def _spent(lines: Lines) -> str:
    """The epsilon that a client has spent with each method."""
    most: dict[str, float] = {}
    for line in lines:
        if "epsilon" in line:
            most[line["method"]] = max(line["epsilon"], most.get(line["method"], 0.0))
    return ", ".join(f"{value:.2f} ({method})" for method, value in sorted(most.items())) or "not bounded"


def _asked(lines: Lines) -> list[str]:
    """Tabulates the requests to a node: run, settings, kinds of requests and signers of the code."""
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["kind"] == "asked":
            runs.setdefault((line["run"], line["settings_sha256"]), []).append(line)
    rows, texts = [], {line["settings_sha256"]: line["settings"] for line in lines if line["kind"] == "settings"}
    for (run, settings), asked in runs.items():
        many = Counter(line["asked"] for line in asked)
        signers = sorted({name for line in asked for name in line.get("app_signed_by", ())})
        rows.append(
            (
                Cell(f"`{printable(run)[:12]}`"),
                Cell(f"`{settings[:16]}...`"),
                Cell(asked[0]["at"]),
                Cell(", ".join(f"{count} x {what}" for what, count in sorted(many.items()))),
                Cell(printable(", ".join(signers)) or "not recorded"),
                Cell(_promised(texts.get(settings))),
            )
        )
    header = ("run", "settings SHA-256", "first asked", "asked for", "code signed by one of", "epsilon")
    return ["What this node was asked for:", "", *Table("", header, tuple(rows)).markdown()]


def _promised(settings: Any) -> str:
    """The epsilon in settings that a server sent; settings are recorded only if data left under them."""
    if settings is None:
        return "nothing left"
    epsilon = settings.get("privacy", {}).get("epsilon") if isinstance(settings, dict) else None
    return "not bounded" if epsilon is None else f"{epsilon:g}"


def _left(lines: Lines) -> list[str]:
    """Tabulates the data that left a node."""
    layouts = {line["layout"]: line["shapes"] for line in lines if line["kind"] == "layout"}
    left: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["kind"] == "left":
            left.setdefault((line["client"], line["what"]), []).append(line)
    rows = []
    for (client, what), found in sorted(left.items()):
        kinds = sorted({_kind(name) for line in found for name in layouts.get(line.get("layout"), ())})
        if what == "sketch of a warm-up":
            # A sketch has the name of the tensor from which it was made.
            kinds = sorted(f"sketch of {kind}" if kind == KINDS["B"] else kind for kind in kinds)
        samples = sum(line.get("samples", 0) for line in found)
        size = sum(line.get("bytes", 0) for line in found)
        held = ", ".join(kinds) or HELD.get(what, "a score")
        rows.append(
            (
                Cell(printable(client)),
                Cell(what),
                Cell(str(len(found))),
                Cell(human_bytes(size) if size else ""),
                Cell(held + (f"; {counted(samples, 'test row')} in clear text" if samples else "")),
            )
        )
    header = ("client", "what left", "times", "tensors", "what it held")
    return ["What left this node:", "", *Table("", header, tuple(rows)).markdown()]


def _trouble(lines: Lines) -> list[str]:
    found = Counter(
        f"{printable(line['client'])}: {printable(line['reason'])}"
        for line in lines
        if line["kind"] in ("refused", "declined")
    )
    odd = Counter(
        f"{printable(line['client'])}: {printable(what)}"
        for line in lines
        if line["kind"] == "suspect"
        for what in line["found"]
        if not what.startswith("refused")
    )
    said = [f"- {text}" + (f" ({times} times)" if times > 1 else "") for text, times in sorted(found.items())]
    named = [f"- {text}" + (f" ({times} times)" if times > 1 else "") for text, times in sorted(odd.items())]
    return [
        *(["Refused:", "", *said] if said else ["Nothing was refused."]),
        *(["", "Odd, and used:", "", *named] if named else []),
    ]


def _kind(name: str) -> str:
    parsed = TensorName.parse(name)
    return "head" if parsed.module == "head" else KINDS.get(parsed.kind, parsed.kind)
