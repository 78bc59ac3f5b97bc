"""Endpoints under /v1, one file per noun, each with a `router`; and health and metrics. None imports another.

A new endpoint is a function of its noun's file, or a `command_route`; a new file is included in `app`.
"""
