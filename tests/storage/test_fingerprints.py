"""Fingerprints against those of the command ``sha256sum``."""

from pathlib import Path

import pytest

from amalgam_edge.storage.fingerprints import sha256_of_file, sha256_of_mapping

# printf '%s' '{"a": 1, "b": [null, "x"]}' | sha256sum
MAPPING = "601e5732700dd10f30e969dbca951870c6fbb0f04c095d30a5fcbe1b37e05e2e"


def test_a_file_has_the_fingerprint_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")  # the example of FIPS 180-4
    assert sha256_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("mapping", [{"a": 1, "b": [None, "x"]}, {"b": [None, "x"], "a": 1}])
def test_a_mapping_has_the_fingerprint_of_its_json_with_sorted_keys(mapping):
    assert sha256_of_mapping(mapping) == MAPPING


def test_a_value_that_json_does_not_know_counts_as_its_string():
    assert sha256_of_mapping({"path": Path("here")}) == sha256_of_mapping({"path": "here"})
