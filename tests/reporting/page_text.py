"""What is read out of a written page."""

import json
import re
from typing import Any


def own_text(page: str) -> str:
    """The page without plotly.js."""
    scripts = re.findall(r"<script>.*?</script>", page, re.DOTALL)
    return page.replace(max(scripts, key=len), "")


def data_block(page: str) -> str:
    """The JSON inside the page, as it stands there."""
    found: list[str] = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    return found[0]


def embedded(page: str) -> Any:
    """That JSON, read."""
    return json.loads(data_block(page))


def fetched(page: str) -> list[str]:
    """Every address in an attribute that a browser may load from."""
    return re.findall(r'\b(?:src|href|action|data|poster)\s*=\s*"([^"]*)"', own_text(page))


def plotly_texts(page: str) -> list[str]:
    """Every text that plotly gets; templates, in which plotly computes, must not be among the keys."""
    texts: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            assert not {"hovertemplate", "texttemplate"} & set(value)
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)
        elif isinstance(value, str):
            texts.append(value)

    collect(embedded(page))
    return texts
