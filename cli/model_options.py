"""Options of the commands that run a bundle's models."""

from __future__ import annotations

import click

with_precision = click.option("--precision", help="One of the bundle's precisions.  [default: the bundle's choice]")
with_threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads to compute with, at most one per usable core.  [default: that many]",
)
with_device = click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="cpu, cuda or cuda:N. A GPU runs fp16 or fp32 where the bundle has it and --precision names no other.",
)
with_cascade = click.option(
    "--cascade/--no-cascade",
    default=None,
    help="Let the bundle's static student answer where it is sure.  [default: if the bundle has one]",
)
