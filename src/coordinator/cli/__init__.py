"""The command line. Nothing heavy is imported before a command needs it: `coordinator --help` is instant."""

from coordinator.cli.main import main

__all__ = ["main"]
