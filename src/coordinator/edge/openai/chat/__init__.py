"""`POST /v1/chat/completions`."""

from coordinator.edge.openai.chat.endpoint import router
from coordinator.edge.openai.chat.request import SERVICE, ChatRequest

__all__ = ["SERVICE", "ChatRequest", "router"]
