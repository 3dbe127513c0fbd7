"""The choice of the model that a page runs in the browser."""

from itertools import combinations
from types import SimpleNamespace

import pytest

from amalgam_edge.browser.site import browser_precision
from amalgam_edge.errors import AmalgamError

# int8 runs in every browser; the others follow by size. fp16 is missing: no browser without WebGPU runs it.
PREFERRED = ["int8", "int8-pq", "q4", "w8", "fp32"]


def bundle_of(precisions, deleted=()):
    there = [name for name in precisions if name not in deleted]
    return SimpleNamespace(
        source="bundle",
        precisions=tuple(precisions),
        available_precisions=lambda: there,
        model_name=lambda precision: f"onnx/{precision}.onnx",
        has=lambda name: name in [f"onnx/{precision}.onnx" for precision in there],
    )


@pytest.mark.parametrize("n_precisions", range(1, 6))
def test_a_browser_runs_the_preferred_precision_of_those_in_the_bundle(n_precisions):
    for precisions in combinations(PREFERRED, n_precisions):
        assert browser_precision(bundle_of(["fp16", *reversed(precisions)])) == precisions[0]
        assert browser_precision(bundle_of(PREFERRED, deleted={*PREFERRED}.difference(precisions))) == precisions[0]


def test_a_bundle_of_models_that_no_browser_runs_is_refused():
    with pytest.raises(
        AmalgamError,
        match=r"bundle: no model that a browser runs; it has fp16, a browser runs int8, .*; build it again",
    ):
        browser_precision(bundle_of(["fp16"]))
