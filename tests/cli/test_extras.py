"""Imports of modules that need packages which may not be installed."""

import pytest

from amalgam_edge.errors import MissingExtraError, needs_extra


def test_a_missing_package_names_the_extra_to_install():
    with pytest.raises(MissingExtraError) as refused, needs_extra("serve", "serving"):
        import no_such_package  # noqa: F401  # deptry: ignore[DEP001]
    assert str(refused.value) == 'serving needs no_such_package: pip install "amalgam-edge[serve]"'


def test_a_missing_module_of_a_package_names_the_extra_too():
    with pytest.raises(MissingExtraError, match=r"json\.no_such_module"), needs_extra("serve", "serving"):
        import json.no_such_module  # noqa: F401


def test_a_missing_module_of_amalgam_edge_itself_is_an_error_of_its_own():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needs_extra("serve", "serving"):
        from amalgam_edge.no_such_module import anything  # noqa: F401


def test_other_errors_are_passed_on():
    with pytest.raises(ImportError, match="cannot import name"), needs_extra("serve", "serving"):
        from json import no_such_name  # noqa: F401
    with needs_extra("serve", "serving"):
        import json  # noqa: F401
