"""The HTTP edge: one router per noun under /v1. It parses, authenticates and passes on; it has no rules.

Its parts, from the top: `app`; endpoints in `routes`, `services`, `openai` and `pages`; `live`; `openapi`;
`middleware` and `server`; `http`; `context`; `state`; `models`. A part imports only from later ones.
"""

from coordinator.edge.app import create_app
from coordinator.edge.context import EdgeContext, EdgeLimits

__all__ = ["EdgeContext", "EdgeLimits", "create_app"]
