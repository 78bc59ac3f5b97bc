"""The OpenAPI documents: of the whole edge, and of one service."""
