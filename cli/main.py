"""``amalgam-edge``: the group of commands, each loaded only when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from amalgam_edge.cli.process_border import (
    end_by_sigterm_as_by_ctrl_c,
    one_line_when_interrupted,
    resumed_command,
    run_process,
)
from amalgam_edge.storage.write_errors import report_write_errors

# name → (module of amalgam_edge.cli, one-line help); the help stands here so that --help need not load the modules.
_COMMANDS = {
    "build": ("build", "Merge teachers into one quantized student, without labels."),
    "methods": ("methods", "List the methods by which teachers become one student."),
    "score": ("score", "Score texts with teachers under Monte-Carlo dropout."),
    "scores": ("scores", "Verify scores, and join those that were made in different places."),
    "export-teacher": ("export_teacher", "Write a teacher as ONNX whose dropout stays alive."),
    "predict": ("predict", "Classify texts with a bundle."),
    "serve": ("serve", "Answer requests over HTTP with one bundle or several."),
    "export-web": ("export_web", "Write a page that runs a bundle in the browser."),
    "evaluate": ("evaluate", "Measure a bundle on labelled texts."),
    "inspect": ("inspect", "Show what a bundle, or a folder of scores, holds."),
    "copy": ("copy", "Copy a bundle, or some of its precisions, into a folder."),
    "push": ("push", "Publish a bundle on the Hugging Face Hub."),
    "optimize": ("optimize", "Make a bundle's models anew, and let a budget pick the one that runs."),
    "heads": ("heads", "Add, replace or drop one head of a bundle, and leave the others as they are."),
    "benchmark": ("benchmark", "Time a bundle beside what its student could be run with instead."),
    "doctor": ("doctor", "Show versions, runtimes, CPU features and cores, and what is wrong with them."),
}


_ARGUMENTS = "amalgam_edge.cli.arguments"


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which a user meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None for a name that is not known."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"amalgam_edge.cli.{_COMMANDS[cmd_name][0]}").command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, and keep them: they say how to go on with what is interrupted."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what a disk refuses, standard output included, is one line, and so is an interruption."""
        with one_line_when_interrupted(lambda: self._resumed(ctx)), report_write_errors():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result

    def _resumed(self, ctx: click.Context) -> str | None:
        """The command that goes on with the one that was interrupted; None if that has no --resume."""
        arguments = ctx.meta[_ARGUMENTS]
        command = self.get_command(ctx, arguments[0])
        can_resume = command is not None and any(parameter.name == "resume" for parameter in command.params)
        return resumed_command(ctx.command_path, arguments) if can_resume else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="amalgam-edge", prog_name="amalgam-edge")
def cli() -> None:
    """Merge fine-tuned text classifiers into one small ONNX model that runs at the edge.

    \b
    Examples:
      amalgam-edge build --teacher runs/a --teacher runs/b --corpus texts.jsonl \\
          --student sentence-transformers/all-MiniLM-L6-v2 --student-layers 3 --output student/
      amalgam-edge predict student/ "a puzzle game about falling blocks"
      amalgam-edge evaluate student/ --data labelled.jsonl
    """  # noqa: D301  (click reads \b as "do not rewrap")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    end_by_sigterm_as_by_ctrl_c()
    run_process(cli.main)
