"""Which methods a path takes, for the header `Allow`: the framework knows each endpoint by itself only."""

from __future__ import annotations

import re

from fastapi import FastAPI


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """The methods of the described endpoints at this path, sorted; none where there is no such path."""
    known: list[tuple[re.Pattern[str], list[str]]] | None = getattr(app.state, "methods", None)
    if known is None:
        known = app.state.methods = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))), list(operations))
            for template, operations in app.openapi()["paths"].items()
        ]
    found = {method.upper() for pattern, methods in known if pattern.fullmatch(path) for method in methods}
    return sorted(found)
