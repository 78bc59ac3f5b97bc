"""The HTTP edge: one router per noun under /v1. It parses, proves who speaks, and hands on; it has no rules.

A new noun is a module with a `router`, included in `app`; a new way to be refused is a line in `problems`.
"""

from coordinator.edge.app import create_app
from coordinator.edge.context import EdgeContext, EdgeLimits

__all__ = ["EdgeContext", "EdgeLimits", "create_app"]
