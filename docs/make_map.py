"""Draws the map of the packages, docs/architecture.svg, from the imports in the code.

    python docs/make_map.py            # write it
    python docs/make_map.py --check    # exit status 1 where it is out of date

Rows are the layers that pyproject.toml gives import-linter. A box says what is inside: the first line of the package's
docstring. Arrows are imports. Left out are arrows that follow from others, and those to the last two rows, which
everything above may use.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "architecture.svg"
TOP_FOLDERS = ("cli", "exporters", "models")

WIDTH, BOX, ROW, MARGIN, GAP = 1280, 74, 122, 20, 16
INK, SOFT, FILL, ARROW = "#1f2933", "#52606d", "#f5f7fa", "#9fb3c8"


def layers() -> list[list[str]]:
    """The packages by layer, from the top, as pyproject.toml lists them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip().removeprefix("amalgam_edge.") for name in re.split(r"[|:]", row)] for row in rows]


def folder_of(package: str) -> Path:
    """Where a package or module of one name lies."""
    folder = ROOT / package if package in TOP_FOLDERS else ROOT / "amalgam_edge" / package
    return folder if folder.is_dir() else folder.with_suffix(".py")


def sources(package: str) -> list[Path]:
    """The files of a package."""
    place = folder_of(package)
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def imports_of(file: Path) -> Iterator[str]:
    """The packages of amalgam_edge that a file imports, wherever in the file it does; types alone do not count."""
    tree = ast.parse(file.read_text("utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types or not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module == "amalgam_edge":
            yield from (alias.name for alias in node.names)
        elif node.module.startswith("amalgam_edge."):
            yield node.module.split(".")[1]


def arrows(packages: list[str]) -> dict[str, set[str]]:
    """Package → the packages that it imports."""
    return {
        package: {name for file in sources(package) for name in imports_of(file)} & set(packages) - {package}
        for package in packages
    }


def without_shortcuts(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The graph without the arrows that follow from others (transitive reduction of a graph without circles)."""

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += graph[name]
        return found

    return {
        package: {name for name in direct if not any(name in reachable(other) for other in direct - {name})}
        for package, direct in graph.items()
    }


def summary_of(package: str) -> str:
    """The first line of a package's docstring."""
    place = folder_of(package)
    file = place / "__init__.py" if place.is_dir() else place
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n")[0].replace("``", "")


def render() -> str:
    """The picture, as SVG."""
    rows = layers()
    boxes: dict[str, tuple[float, float, float]] = {}
    for number, row in enumerate(rows):
        width = min(300.0, (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row))
        start = (WIDTH - width * len(row) - GAP * (len(row) - 1)) / 2
        for position, package in enumerate(row):
            boxes[package] = (start + position * (width + GAP), MARGIN + number * ROW, width)
    height = MARGIN * 2 + ROW * (len(rows) - 1) + BOX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{ARROW}"/></marker></defs>',
    ]
    for package, targets in without_shortcuts(arrows(list(boxes))).items():
        x, y, width = boxes[package]
        for target in sorted(targets - {name for row in rows[-2:] for name in row}):
            other_x, other_y, other_width = boxes[target]
            parts.append(
                f'<line x1="{x + width / 2:.0f}" y1="{y + BOX:.0f}" x2="{other_x + other_width / 2:.0f}" '
                f'y2="{other_y:.0f}" stroke="{ARROW}" stroke-width="1.5" marker-end="url(#tip)"/>'
            )
    for package, (x, y, width) in boxes.items():
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{BOX}" rx="6" fill="{FILL}" stroke="{SOFT}"/>'
        )
        parts.append(
            f'<text x="{x + 10:.0f}" y="{y + 19:.0f}" font-size="14" font-weight="bold" fill="{INK}">{package}</text>'
        )
        lines = textwrap.wrap(summary_of(package), max(10, int((width - 18) / 5.4)))[:4]
        for position, line in enumerate(lines):
            parts.append(
                f'<text x="{x + 10:.0f}" y="{y + 34 + 12 * position:.0f}" font-size="10.5" fill="{SOFT}">'
                f"{escape(line)}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write the picture, or check it."""
    if "--check" in sys.argv[1:]:
        if not TARGET.is_file() or TARGET.read_text("utf-8") != render():
            sys.exit(f"{TARGET.name} is out of date: python docs/make_map.py")
        return
    TARGET.write_text(render(), "utf-8")


if __name__ == "__main__":
    main()
