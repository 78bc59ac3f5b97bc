"""The service `reranking`: documents in the order of how well they answer a query."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, TypeAdapter

from coordinator.domain.matching.needs import Constraints
from coordinator.services.base import KnownService, ModelName, Payload, Result, ResultPart, Whole

MAX_DOCUMENTS: Final = 1000
MAX_QUERY_CHARACTERS: Final = 20_000
MAX_DOCUMENT_CHARACTERS: Final = 100_000
"""Of one document; the model's context ends it earlier."""
MAX_DOCUMENTS_BYTES: Final = 900 << 10
"""Of all documents together, as UTF-8: a job has 1 MiB."""
MODELS: Final = ("bge-reranker-v2-m3", "jina-reranker-v2-base-multilingual", "qwen3-reranker-0.6b")
"""Examples of models that miners may offer."""

Query = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)]
Document = Annotated[str, Field(min_length=1, max_length=MAX_DOCUMENT_CHARACTERS)]


class RerankPayload(Payload):
    """A query, and the documents to compare with it."""

    query: Query
    documents: Annotated[list[Document], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    """900 KiB together, as UTF-8."""
    model: ModelName = Field("bge-reranker-v2-m3", examples=list(MODELS))
    """A model that a miner offers."""
    top_n: Annotated[int, Field(ge=1, le=MAX_DOCUMENTS), Whole] | None = None
    """Give the best ones only."""

    def needs(self) -> Constraints:
        return Constraints(models=(self.model,))

    def contradiction(self) -> str | None:
        return documents_fault(self.documents)


class RankedDocument(ResultPart):
    index: Annotated[int, Field(ge=0, lt=MAX_DOCUMENTS)]
    """The document's place in the payload, from 0."""
    relevance_score: float
    """Higher is more relevant. Models differ in scale: some give probabilities, others logits."""


class Ranking(Result):
    """The documents, the most relevant first."""

    model: Annotated[str, Field(min_length=1, max_length=100)]
    results: Annotated[list[RankedDocument], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    tokens: Annotated[int, Field(ge=0)]
    """Tokens read, as the engine counts them; 0 if it does not."""


def documents_fault(documents: list[str]) -> str | None:
    """The fault of documents that are too large together, as `documents: problem`; None otherwise."""
    size = sum(len(document.encode()) for document in documents)
    if size > MAX_DOCUMENTS_BYTES:
        return f"documents: {size} bytes together; the limit is {MAX_DOCUMENTS_BYTES}"
    return None


SERVICE: Final = KnownService("reranking", TypeAdapter(RerankPayload), Ranking)
