"""Requests and responses of the server: their form, and reasons for refusals."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedlease.core.types import ClientId
from fedlease.data.federation import Row
from fedlease.use.open_run import OpenRun

__all__ = [
    "MAX_CHARACTERS",
    "ClientPredictions",
    "ClientRows",
    "Failure",
    "Limits",
    "Refusal",
    "SeveralClients",
    "SeveralPredictions",
    "check_content_type",
    "parse_body",
    "read_requests",
    "rows_of",
]

MAX_CHARACTERS = 50_000
"""Most characters of one text; texts are cut to the run's ``data.max_tokens`` as in training."""
MAX_KEYS = 32
"""Most keys of one object, since every unknown key is a fault."""
MAX_FAULTS = 10
"""Most faults that a refusal lists; it always states their number."""
UNDECLARED = ("", "application/x-www-form-urlencoded")
"""Content types that HTTP clients send by default, whatever the body is."""


@dataclass(frozen=True)
class Limits:
    """Limits of requests, batches and the queue.

    Attributes:
        max_body_bytes: largest body of a request.
        max_rows: most rows in a request, over all its clients.
        max_batch: most rows computed together.
        wait_ms: most milliseconds that a batch waits for more rows.
        max_waiting: most rows or prompts in the queue; None is four full requests, or 64 prompts.
        max_new_tokens: most tokens of an answer that a request may ask for.
    """

    max_body_bytes: int = 1_000_000
    max_rows: int = 256
    max_batch: int = 64
    wait_ms: float = 5.0
    max_waiting: int | None = None
    max_new_tokens: int = 1024


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("a text must not be empty")
    text.encode()  # raises ValueError for a lone surrogate, which JSON allows but tokenisers do not
    return text


Text = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _InputRow(_Strict):
    text: Text
    text_pair: Text | None = None


class ClientRows(_Strict):
    """Rows for one client."""

    client: str
    rows: Annotated[list[_InputRow], Field(min_length=1)]


class SeveralClients(_Strict):
    """Rows for several clients in one request."""

    requests: Annotated[list[ClientRows], Field(min_length=1)]


class _Label(BaseModel):
    label: str
    probability: float
    probabilities: dict[str, float]


class _Labels(BaseModel):
    labels: list[str]
    probabilities: dict[str, float]


class _Value(BaseModel):
    value: float


class ClientPredictions(BaseModel):
    """Predictions for one client, in the order of its rows: labels, sets of labels or numbers, by the run's task."""

    client: str
    predictions: list[_Label] | list[_Labels] | list[_Value]


class SeveralPredictions(BaseModel):
    """Predictions for :class:`SeveralClients`, in its order."""

    results: list[ClientPredictions]


class Failure(BaseModel):
    """The body of every error."""

    error: str


class Refusal(Exception):
    """The refusal of a request: HTTP status, sentence, headers, and further fields of the body."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        self.status, self.content, self.headers = status, {"error": error, **more}, headers


def check_content_type(headers: Sequence[tuple[str, str]]) -> None:
    """Refuses a body that is declared to be something else than JSON.

    A page in a browser may send forms, and bodies without a type, to any address without permission. So only
    ``application/json`` is accepted from a browser. Other callers may send no type, or that of a form, as ``curl -d``.

    Args:
        headers: (name in lower case, value) pairs.

    Raises:
        Refusal: 415.
    """
    declared = sorted({value for name, value in headers if name == "content-type"})
    kind, _, parameters = ",".join(declared).partition(";")
    kind, charset = kind.strip().lower(), parameters.lower().partition("charset=")[2].partition(";")[0].strip('" ')
    browser = any(name in ("origin", "referer") or name.startswith("sec-fetch-") for name, _ in headers)
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if charset in ("", "utf-8", "utf8", "us-ascii") and (is_json or (kind in UNDECLARED and not browser)):
        return
    raise Refusal(415, f"the content type must be application/json in UTF-8, received {', '.join(declared)!r:.120}")


def read_requests(body: bytes, max_rows: int) -> tuple[list[ClientRows], bool]:
    """Reads the requests in a body; also returns whether it has the form for several clients.

    Raises:
        Refusal: 400 if it is not JSON, 422 if it has another form or more than ``max_rows`` rows.
    """
    data = parse_body(body)
    several = isinstance(data, dict) and "requests" in data
    # Counting comes before validation, since a large body may have a million faults.
    listed = (data["requests"] if isinstance(data["requests"], list) else []) if several else [data]
    count = sum(len(one["rows"]) for one in listed if isinstance(one, dict) and isinstance(one.get("rows"), list))
    for name, number in (("requests", len(listed)), ("rows", count)):
        if number > max_rows:
            raise Refusal(422, f"{name}: at most {max_rows} in a request, received {number}")
    try:
        return (SeveralClients.model_validate(data).requests if several else [ClientRows.model_validate(data)]), several
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            # An unknown key may be long, or not valid Unicode.
            where = ascii(".".join(map(str, fault["loc"])))[1:-1][:200]
            faults.append(f"{where}: {fault['msg']}" if where else fault["msg"])
        raise Refusal(422, faults[0], faults=faults[:MAX_FAULTS], num_faults=len(faults)) from None


def rows_of(run: OpenRun, asked: ClientRows, where: str) -> list[tuple[ClientId, Row]]:
    """Converts the rows for one client.

    Args:
        run: opened run folder.
        asked: the rows in the request.
        where: their place in the body, for messages.

    Raises:
        Refusal: 404 for an unknown client, 422 if a second text is missing or must be absent.
    """
    known = run.clients.get(asked.client)
    if known is None:
        some = list(run.clients)[:5]
        raise Refusal(404, f"no such client: {asked.client!r:.120}; the run has {len(run.clients)}", clients=some)
    pairs = known.pairs
    for i, row in enumerate(asked.rows):
        if pairs is not None and (row.text_pair is not None) != pairs:
            rule = "is missing: the client's rows are pairs" if pairs else "must be absent: its rows are no pairs"
            raise Refusal(422, f"{where}rows.{i}.text_pair: {rule}")
    if pairs is None:
        # One pair makes all of the client's rows pairs, as in files of rows.
        pairs = any(row.text_pair is not None for row in asked.rows)
    return [(known.id, Row(row.text, (row.text_pair or "") if pairs else None, 0)) for row in asked.rows]


def parse_body(body: bytes) -> Any:
    """Parses strict JSON.

    Raises:
        Refusal: 400 for malformed JSON, NaN, a key that is given twice, or an object with too many keys.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = Counter(name for name, _ in pairs)
            raise ValueError(f"the key {names.most_common(1)[0][0]!a:.120} is given twice")
        if len(found) > MAX_KEYS:
            raise ValueError(f"an object may have {MAX_KEYS} keys, one has {len(found)}")
        return found

    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8: byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not usable JSON: {error}") from None
