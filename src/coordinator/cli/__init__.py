"""The command line. A command imports heavy modules only for itself: `coordinator --help` is instant."""

from coordinator.cli.main import main

__all__ = ["main"]
