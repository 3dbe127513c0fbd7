"""``python -m amalgam_edge.training``: what ``torchrun`` and ``accelerate launch`` start."""

from amalgam_edge.cli.training import main

if __name__ == "__main__":
    main()
