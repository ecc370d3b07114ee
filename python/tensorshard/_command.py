"""The `tensorshard` command."""

from __future__ import annotations

import signal
import sys

from . import _tensorshard


def main() -> None:
    """Runs the command with the arguments of this process, and exits."""
    # The command handles interrupts and closed pipes itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.exit(_tensorshard.run(["tensorshard", *sys.argv[1:]]))
