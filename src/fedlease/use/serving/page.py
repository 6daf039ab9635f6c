"""The page at ``/docs``, which describes all paths of the service without scripts or network."""

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

__all__ = ["HEADERS", "render_page"]

HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ info.title }} {{ info.version }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid; border-radius: .25rem; font-size: .85rem; }
code, pre { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
h2 { margin-top: 2.5rem; border-top: 1px solid; padding-top: 1rem; }
</style>
</head>
<body>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>Every path of this service. The same for programs: <a href="/openapi.json">openapi.json</a>.
{{ "Requests need the header Authorization: Bearer TOKEN, but for /health and this page." if tokens }}</p>
{% for path, methods in paths.items() %}{% for method, what in methods.items() %}
<h2><code>{{ method | upper }} {{ path }}</code></h2>
<p>{{ what.summary }}</p>
{% set body = what.get("requestBody", {}).get("content", {}).get("application/json") %}
{% if body %}<p>The body, as a JSON schema:</p>
<pre>{{ body.schema | shown }}</pre>{% endif %}
<table>{% for status, answer in what.responses.items() %}
<tr><td><code>{{ status }}</code></td><td>{{ answer.description }}</td></tr>{% endfor %}
</table>
{% endfor %}{% endfor %}
<h2>Objects</h2>
{% for name, schema in schemas.items() %}
<h3 id="{{ name }}"><code>{{ name }}</code></h3>
<pre>{{ schema | shown }}</pre>
{% endfor %}
</body>
</html>
"""


def render_page(described: Mapping[str, Any], *, tokens: bool) -> str:
    """Renders the page.

    Args:
        described: the service's OpenAPI description.
        tokens: whether requests need a token.
    """
    environment = Environment(undefined=StrictUndefined, autoescape=True)
    environment.filters["shown"] = lambda schema: json.dumps(schema, indent=2, ensure_ascii=False)
    schemas = described.get("components", {}).get("schemas", {})
    shown = {"info": described["info"], "paths": described["paths"], "schemas": schemas}
    return environment.from_string(PAGE).render(**shown, tokens=tokens)
