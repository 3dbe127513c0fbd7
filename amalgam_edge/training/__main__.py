"""``python -m amalgam_edge.training``: the former name of ``python -m amalgam_edge.cli.training``."""

import runpy
import sys

if __name__ == "__main__":
    sys.stderr.write(
        "amalgam_edge.training is now called amalgam_edge.cli.training; this name goes with the next release\n"
    )
    runpy.run_module("amalgam_edge.cli.training", run_name="__main__", alter_sys=True)
