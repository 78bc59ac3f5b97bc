"""`POST /v1/embeddings`."""

from coordinator.edge.openai.embeddings.endpoint import SERVICE, EmbeddingRequest, router

__all__ = ["SERVICE", "EmbeddingRequest", "router"]
