"""The HTTP edge: one router per noun under /v1. It parses, proves who speaks, and hands on; it has no rules.

Its rooms, from the top: `app`; endpoints in `routes`, `services`, `openai` and `pages`; `live`; `openapi`;
`middleware` and `server`; `http`; `context`; `state`; `models`. A room imports only from later ones.
"""

from coordinator.edge.app import create_app
from coordinator.edge.context import EdgeContext, EdgeLimits

__all__ = ["EdgeContext", "EdgeLimits", "create_app"]
