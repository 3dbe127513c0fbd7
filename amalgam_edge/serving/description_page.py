"""The API's description by OpenAPI, and as a page without scripts that loads nothing from elsewhere. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

_METHODS = ("get", "post")


@dataclass(frozen=True)
class ApiDescription:
    """The API's description, encoded once.

    Attributes:
        document: The description by OpenAPI.
    """

    document: dict[str, Any]

    @cached_property
    def json(self) -> bytes:
        """The document as JSON."""
        return json.dumps(self.document, ensure_ascii=False).encode()

    @cached_property
    def page(self) -> bytes:
        """The document as a page of HTML."""
        return description_page(self.document).encode()


def description_page(document: Mapping[str, Any]) -> str:
    """The page.

    Args:
        document: The description by OpenAPI.
    """
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    sections = "\n".join(_sections(document))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css">
</head>
<body>
<main>
<h1>{title}</h1>
<p>{escape(document["info"].get("description", ""))} For programs: <a href="openapi.json">openapi.json</a>.</p>
{sections}
</main>
</body>
</html>
"""


def _sections(document: Mapping[str, Any]) -> Iterator[str]:
    """The operations, by their first tag."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                tag = operations[method].get("tags", ["others"])[0]
                by_tag.setdefault(tag, []).append(_operation(method, path, operations[method]))
    for tag, operations in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>\n" + "\n".join(operations)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    title = escape(f"{method.upper()} {path}")
    parts = [f"<h3><code>{title}</code></h3>", f"<p>{escape(operation.get('description', ''))}</p>"]
    rows = [
        f"<tr><th>{escape(parameter['name'])}</th><td>{escape(_values(parameter.get('schema', {})))}</td></tr>"
        for parameter in operation.get("parameters", [])
    ]
    if rows:
        parts.append(f"<table>{''.join(rows)}</table>")
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    example = content.get("example", content.get("schema", {}).get("example"))
    if example is not None:
        command = f"curl $SERVER{path} -d '{json.dumps(example, ensure_ascii=False)}'"
        parts.append(f'<pre class="scroll" tabindex="0">{escape(command)}</pre>')
    answers = ", ".join(f"{status}: {answer['description']}" for status, answer in operation["responses"].items())
    parts.append(f"<p>{escape(answers)}</p>")
    return "\n".join(parts)


def _values(schema: Mapping[str, Any]) -> str:
    """What a parameter may be."""
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    return str(schema.get("type", "any"))
