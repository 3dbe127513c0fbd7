"""HTML pages that need nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from amalgam_edge.reports.tables import Table

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#27313d;background:#f4f6f9;margin:0}
main{max-width:1080px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:26px;margin:.2em 0}h2{font-size:17px;margin:0 0 8px}
section{background:#fff;border:1px solid #e3e8ee;border-radius:8px;padding:16px 20px;margin-top:16px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:0 16px}
@media(max-width:560px){.grid{grid-template-columns:1fr}}
section svg{max-width:100%;height:auto}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}th,td{padding:5px 10px;border-bottom:1px solid #e3e8ee;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
p.note{color:#5b6775;margin:6px 0 0;font-size:13.5px}.miss{color:#b03a39}
"""


def page(title: str, summary: str, sections: Sequence[str], figures: Sequence[str] = ()) -> str:
    """A whole page: text for title and summary, HTML for sections, and for figures, which stand side by side."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>amalgam-edge: {escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
        f"<h1>{escape(title)}</h1><p>{escape(summary)}</p>{''.join(sections)}"
        f'<div class="grid">{"".join(figures)}</div></main></body></html>\n'
    )


def section(title: str, body: str, note: str = "") -> str:
    """A box with a heading and, under its body, a note; body and note are HTML."""
    below = f'<p class="note">{note}</p>' if note else ""
    return f'<section><h2>{escape(title)}</h2><div class="scroll">{body}</div>{below}</section>'


def html_table(table: Table) -> str:
    """A table as HTML, its cells escaped."""
    kinds = ["n" if column.numeric else "" for column in table.columns]
    head = "".join(f'<th class="{k}">{escape(c.title)}</th>' for k, c in zip(kinds, table.columns, strict=True))
    rows = "".join(
        "<tr>" + "".join(f'<td class="{k}">{escape(v)}</td>' for k, v in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f"<table><tr>{head}</tr>{rows}</table>"
