"""``python -m amalgam_edge.cli.training``: a build by processes that ``torchrun`` or ``accelerate launch`` starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from amalgam_edge.cli.build import show
from amalgam_edge.cli.extras import load_training_part, quiet_libraries
from amalgam_edge.cli.main import EXIT_MISTAKE
from amalgam_edge.errors import AmalgamError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("recipe_file", metavar="RECIPE", required=False)
@click.option("--output", help="Folder of the bundle, in the place of the recipe's.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle that stands in the output folder.")
@click.option("--resume", is_flag=True, help="Go on with a build that was cut off.")
@click.option("--job", type=click.Path(path_type=Path), hidden=True, help="Part of a fit that build --launch started.")
def command(recipe_file: str | None, output: str | None, overwrite: bool, resume: bool, job: Path | None) -> None:
    """Build what RECIPE says, and train its student on all processes that were started with this one.

    The first process does all but the training alone. Processes that are started again after one ended go on from the
    last epoch that was finished, as with --resume.

    \b
    Examples:
      torchrun --nproc-per-node 2 -m amalgam_edge.cli.training recipe.yaml
      accelerate launch -m amalgam_edge.cli.training recipe.yaml --output student/
    """  # noqa: D301  (click reads \b as "do not rewrap")
    launching = load_training_part("amalgam_edge.building.processes", "training a student")
    pipeline = load_training_part("amalgam_edge.building.pipeline", "building a student")
    from amalgam_edge.cli.progress import ConsoleProgress
    from amalgam_edge.recipe.recipe import read_recipe

    if job is not None:
        launching.run_launched(job, resume=resume)
        return
    if recipe_file is None:
        raise AmalgamError("no recipe given: name one, as in torchrun -m amalgam_edge.cli.training recipe.yaml")
    recipe = read_recipe(recipe_file, {"launch": 1} | ({"output": output} if output else {}))
    resume = resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    company = launching.Joined() if launching.Joined.is_called() else None
    if company is None or company.rank == 0:
        try:
            manifest = pipeline.build(recipe, ConsoleProgress(), overwrite=overwrite, resume=resume, company=company)
        finally:
            if company is not None:
                company.dismiss()
        show(recipe, manifest)
    else:
        company.follow()


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    quiet_libraries()
    try:
        command.main(standalone_mode=True)
    except AmalgamError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_MISTAKE)


if __name__ == "__main__":
    main()
