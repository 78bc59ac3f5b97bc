"""The endpoints under /v1, a router for each noun; health and metrics."""
