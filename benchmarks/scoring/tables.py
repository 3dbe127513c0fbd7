"""Tables of the parts of the scoring benchmark, as Markdown."""

from __future__ import annotations

from amalgam_edge.reports.tables import Column, Table

PARTS = ("ways", "masks", "growth")


def tables(found: dict) -> str:
    """Tables of all parts that have results, as Markdown."""
    shown = {"ways": ways_table, "masks": masks_table, "growth": growth_table}
    return "\n\n".join(shown[part](found[part]) for part in PARTS if part in found)


def ways_table(found: dict) -> str:
    """Speed and error of each way."""
    rows = found["rows"]
    columns = ("way", "passes", "texts/s", "over a", "over b", "RMSE of u", "other pick")
    table = Table(
        tuple(Column(name, numeric=name != "way") for name in columns),
        tuple(
            (
                row["way"],
                f"{row['passes']:.1f}",
                f"{row['texts_per_second']:.1f}",
                *(f"{row['texts_per_second'] / rows[k]['texts_per_second']:.1f}×" for k in (0, 1)),
                f"{row['rmse_u']:.4f}",
                f"{row['other_pick']:.1%}",
            )
            for row in rows
        ),
    )
    about = (
        f"{found['texts']} texts of {found['mean_tokens']:.1f} tokens on average, {found['teachers']} teachers, "
        f"{found['repeats']} rounds, medians."
    )
    return f"{about}\n\n{table.to_markdown()}"


def masks_table(rows: list[dict]) -> str:
    """How much masks slow a pass down."""
    cells = tuple((f"{row['texts']} × {row['tokens']}", f"{row['ratio']:.2f}") for row in rows)
    columns = (Column("texts × tokens", numeric=False), Column("masked pass over plain pass"))
    return Table(columns, cells).to_markdown()


def growth_table(rows: list[dict]) -> str:
    """Seconds and memory by number of texts."""
    cells = tuple((str(row["texts"]), f"{row['seconds']:.0f}", f"{row['peak_mb']:.0f}") for row in rows)
    return Table((Column("texts"), Column("seconds"), Column("peak MB")), cells).to_markdown()
