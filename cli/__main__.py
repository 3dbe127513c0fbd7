"""``python -m amalgam_edge.cli``: the same as ``amalgam-edge``, where scripts are not on the path."""

from amalgam_edge.cli.main import main

main()
