"""``python -m amalgam_edge.cli.training``: a build by processes that ``torchrun`` or ``accelerate launch`` starts."""

from __future__ import annotations

import os
from typing import Any

import click

from amalgam_edge.cli.build import show
from amalgam_edge.cli.extras import quiet_libraries
from amalgam_edge.cli.process_border import one_line_when_interrupted, run_process
from amalgam_edge.errors import AmalgamError, needs_extra
from amalgam_edge.storage.write_errors import TEMPORARY_FILES, report_write_errors


class _Command(click.Command):
    """A command that says in one line that it was interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        with one_line_when_interrupted(lambda: "the same command with --resume"):
            return super().invoke(ctx)


@click.command(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("recipe_file", metavar="RECIPE", required=False)
@click.option("--output", help="Folder of the bundle, in the place of the recipe's.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle that stands in the output folder.")
@click.option("--resume", is_flag=True, help="Go on with a build that was cut off.")
def command(recipe_file: str | None, output: str | None, overwrite: bool, resume: bool) -> None:
    """Build what RECIPE says, and train its student on all processes that were started with this one.

    The first process does all but the training alone. Processes that are started again after one ended go on from the
    last epoch that was finished, as with --resume.

    \b
    Examples:
      torchrun --nproc-per-node 2 -m amalgam_edge.cli.training recipe.yaml
      accelerate launch -m amalgam_edge.cli.training recipe.yaml --output student/
    """  # noqa: D301  (click reads \b as "do not rewrap")
    if recipe_file is None:
        raise AmalgamError("no recipe given: name one, as in torchrun -m amalgam_edge.cli.training recipe.yaml")
    from amalgam_edge.building.checks import check_build
    from amalgam_edge.recipe.reading import read_recipe

    recipe = read_recipe(recipe_file, {"launch": 1} | ({"output": output} if output else {}))
    resume = resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    with needs_extra("train", "building a student"):
        from amalgam_edge.building.pipeline import build_bundle
        from amalgam_edge.building.processes import JoinedProcesses
        from amalgam_edge.console_progress import ConsoleProgress

    processes = JoinedProcesses() if JoinedProcesses.are_there() else None
    if processes is not None and processes.rank > 0:
        processes.follow()
        return
    try:
        check_build(recipe, overwrite=overwrite, resume=resume)
        bundle = build_bundle(recipe, ConsoleProgress(), overwrite=overwrite, resume=resume, processes=processes)
    finally:
        if processes is not None:
            processes.dismiss()
    show(recipe, bundle.manifest)


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    quiet_libraries()
    run_process(_run)  # SIGTERM ends it at once: a launcher's other processes are gone, and it may wait for them in C


def _run() -> None:
    with report_write_errors(TEMPORARY_FILES):
        command.main(standalone_mode=True)


if __name__ == "__main__":
    main()
