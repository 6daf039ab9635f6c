"""A node's own audit trail: requests and their settings, replies that left the node, and refusals.

A request is recorded before the node works on it, and a reply before it leaves. If the trail cannot be written, the
node refuses.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedlease.client.messages import Finish, Finished, Masked, Refused, Score, Scored, Train, Trained
from fedlease.client.sum_messages import AskKeys, AskSeeds, AskShares, SumKeys, SumSeeds, SumShares
from fedlease.config.layers import MOST_YAML, parse_yaml
from fedlease.core.codec import digest
from fedlease.errors import RulesError, RunFolderError
from fedlease.files import locked
from fedlease.flower.bounds import LONG, shown
from fedlease.flower.keys import fingerprint, public_key
from fedlease.flower.messages import Envelope, Introduction, Unusable
from fedlease.storage.audit import AUDIT, Trail

__all__ = ["NodeTrail"]

LOCK = ".audit.lock"
WAIT = 60.0
"""Seconds for another process of the node to write its lines."""

ASKED = {
    Train: "train",
    Score: "score",
    Finish: "finish",
    AskKeys: "keys of a sum",
    AskShares: "shares of a sum",
    AskSeeds: "unmasking of a sum",
    type(None): "introduction",
}

_open: dict[Path, Trail] = {}


@dataclass(frozen=True)
class NodeTrail:
    """Records one message and the reply to it.

    Attributes:
        folder: folder of the trail; None records nothing.
        client: id of the node's client.
        trusted: the SuperNode's file of trusted signers, whose names are recorded; None records none.
    """

    folder: Path | None
    client: str
    trusted: Path | None = None

    @classmethod
    def of(cls, node_config: Mapping[str, Any], client: str) -> "NodeTrail":
        """The trail in a node's ``state-dir``."""
        folder, trusted = (
            Path(str(node_config[key])).expanduser() if key in node_config else None for key in ("state-dir", "trusted")
        )
        return cls(folder, client, trusted)

    def asked(self, message: Envelope) -> None:
        """Records the request in a message whose form was checked.

        Raises:
            RulesError: the trail cannot be written.
        """
        request, hash_ = message.request, digest(message.settings.encode())
        about: dict[str, Any] = {"run": message.run, "fedlease": message.version, "settings_sha256": hash_}
        about |= {"asked": ASKED[type(request)]} | ({} if request is None else {"method": request.method})
        if isinstance(request, Train):
            about |= {"phase": request.task.phase, "round": request.task.round}
        with self._written() as trail:
            if trail is not None:
                about |= {"app_signed_by": self._signers()} if self.trusted is not None else {}
                trail.add("asked", client=self.client, **about)

    def left(self, message: Envelope, reply: object) -> None:
        """Records a reply that is about to leave and, once, the settings of its request; ignores refusals.

        Raises:
            RulesError: the trail cannot be written.
        """
        hash_ = digest(message.settings.encode())
        with self._written() as trail:
            if trail is None or isinstance(reply, Refused | Unusable):
                return
            if trail.first("settings", hash_):
                trail.add("settings", settings_sha256=hash_, settings=json.loads(message.settings))
            match reply:
                case Introduction():
                    card = reply.card
                    rows = {"train_rows": card.train_rows, "valid_rows": card.valid_rows, "test_rows": card.test_rows}
                    about: dict[str, Any] = {"task": card.task, "labels": len(card.labels), **rows}
                    if reply.key:
                        about["key"] = fingerprint(public_key(reply.key))
                    trail.add("left", client=self.client, what="card", rows_sha256=card.fingerprint, **about)
                case Trained():
                    update = reply.update
                    about = {"phase": update.phase, "round": update.round, "rows": update.num_examples, **_spent(reply)}
                    request = message.request
                    sketched = isinstance(request, Train) and request.task.sketch is not None
                    what = "sketch of a warm-up" if sketched else "update"
                    trail.tensors("left", update.tensors, client=self.client, what=what, **about)
                case Masked(trained, values):
                    about = {"phase": trained.update.phase, "round": trained.update.round, **_spent(trained)}
                    about |= {"bytes": values.nbytes, "content_sha256": digest(values.numpy().tobytes())}
                    trail.add("left", client=self.client, what="masked update", **about)
                case SumKeys() | SumShares():
                    trail.add("left", client=self.client, what="keys and shares of a sum")
                case SumSeeds():
                    about = {"survivors": sorted(reply.seeds), "vanished": sorted(reply.keys)}
                    trail.add("left", client=self.client, what="unmasking of a sum", **about)
                case Scored():
                    trail.add("left", client=self.client, what="score")
                case Finished():
                    scores = reply.scores
                    about = {"test_rows": scores.num_test, "samples": len(scores.samples)}
                    trail.add("left", client=self.client, what="scores", **about)

    def refused(self, why: Sequence[str], told: str) -> None:
        """Records that a message was refused, if the trail can be written.

        Args:
            why: the reasons in full, which stay on the node.
            told: the sentence that the server gets.
        """
        try:
            with self._written() as trail:
                if trail is not None:
                    trail.add("refused", client=self.client, reason="; ".join(map(shown, why))[:LONG], told=told)
        except RulesError:
            return  # this is then the reason for the refusal

    @contextmanager
    def _written(self) -> Iterator[Trail | None]:
        if self.folder is None:
            yield None
            return
        try:
            with locked(self.folder, "its audit trail", WAIT, LOCK):
                trail = _open.pop(self.folder, None)
                path = self.folder / AUDIT
                # The trail is read again if another process of the node has written to it.
                if trail is None or trail.size != (path.stat().st_size if path.exists() else 0):
                    trail = Trail.of(self.folder)
                yield trail
                trail.flush()
                _open[self.folder] = trail
        except (OSError, RunFolderError) as error:
            raise RulesError([("audit", f"state-dir: its audit trail cannot be written: {error}")]) from error

    def _signers(self) -> list[str]:
        """Names of the trusted keys, one of which has signed the app that handles the message."""
        assert self.trusted is not None
        try:
            with self.trusted.open(encoding="utf-8") as file:
                found = parse_yaml(file.read(MOST_YAML + 1))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunFolderError(f"trusted: {str(self.trusted)!r} cannot be read: {error}") from error
        return sorted(map(shown, found)) if isinstance(found, dict) else []


def _spent(reply: Trained) -> dict[str, float]:
    """The epsilon that a client has spent with a method, under differential privacy; otherwise empty."""
    return {} if reply.epsilon is None else {"epsilon": reply.epsilon}
