"""`python -m gsvckpt`, and the console script."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command line and exit with its code."""
    import gc

    sys.setswitchinterval(0.0005)  # threads that compute give way at once to those that wait for the disk
    gc.disable()  # opening a checkpoint makes 100,000 objects and no garbage; a run is short and its memory bounded
    from gsvckpt.cli.app import main

    sys.exit(main())


if __name__ == "__main__":
    run()
