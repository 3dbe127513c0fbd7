"""Which of a bundle's models the page runs."""

from types import SimpleNamespace

import pytest

from amalgam_edge.browser.site import browser_precision
from amalgam_edge.errors import AmalgamError


@pytest.mark.parametrize(
    ("precisions", "picked"), [(["fp32", "int8"], "int8"), (["fp32", "fp16"], "fp32"), (["fp32", "q4", "w8"], "q4")]
)
def test_the_smallest_model_that_a_browser_runs_is_picked(precisions, picked):
    assert browser_precision(SimpleNamespace(folder="student", precisions=precisions)) == picked


def test_a_bundle_without_a_model_for_browsers_is_refused_with_a_remedy():
    with pytest.raises(AmalgamError, match=r"^student: .* it has fp16, a browser runs int8, .*; build it again"):
        browser_precision(SimpleNamespace(folder="student", precisions=["fp16"]))
