"""Peak memory of this process, beside what the operating system says of it."""

import re
import sys
from pathlib import Path

import pytest

from amalgam_edge.runtime.peak_memory import peak_megabytes_of_this_process


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has /proc")
def test_peak_memory_is_in_millions_of_bytes():
    """Linux counts in units of 1,024 bytes and calls them kB."""
    found = peak_megabytes_of_this_process()
    kilobytes = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text("utf-8"))[1])
    assert found == pytest.approx(kilobytes * 1024 / 1e6, rel=0.01)
