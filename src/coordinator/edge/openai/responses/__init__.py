"""`POST /v1/responses`, without a memory: each request has its whole history."""

from coordinator.edge.openai.responses.endpoint import router
from coordinator.edge.openai.responses.request import ResponsesRequest

__all__ = ["ResponsesRequest", "router"]
