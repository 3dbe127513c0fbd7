"""The tiny teachers, texts and bundle of the command line's tests."""

from tests.cli.conftest import build_options, built, inputs, invoke, mistake

__all__ = ["build_options", "built", "inputs", "invoke", "mistake"]
