"""The service `text_embedding`: vectors of a few texts, or of a file of texts."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, TypeAdapter

from coordinator.services.base import (
    NOT_NULL,
    Either,
    FileRef,
    KnownService,
    ModelName,
    OutputFile,
    Payload,
    Result,
)

MAX_TEXT_CHARACTERS: Final = 8192
MODELS: Final = (
    "all-minilm-l6-v2",
    "bge-small-en-v1.5",
    "bge-base-en-v1.5",
    "bge-large-en-v1.5",
    "bge-m3",
    "multilingual-e5-large",
    "nomic-embed-text-v1.5",
)
"""Examples of models that miners may offer."""


class EmbeddingPayload(Either, Payload):
    """Either `texts`, with the vectors in the result, or `input_url`, a file with one text a line."""

    EITHER: ClassVar = ("texts", "input_url")

    texts: Annotated[
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)]],
            Field(min_length=1, max_length=64),
        ]
        | None,
        NOT_NULL,
    ] = None
    """Texts whose vectors are in the result."""
    input_url: Annotated[FileRef | None, NOT_NULL] = None
    """A UTF-8 file with one text a line; its vectors become a NumPy file."""
    model: ModelName = Field("all-minilm-l6-v2", examples=list(MODELS))
    """A model that a miner offers. bge-m3 and multilingual-e5-large know a hundred languages."""
    kind: Literal["document", "query"] = "document"
    """Some models embed search queries differently from documents."""
    normalize: bool = True
    """Vectors of length 1, so that the dot product is the cosine."""
    truncate: bool = True
    """Cut texts that are too long for the model; otherwise such a text is an error."""


class Embeddings(Either, Result):
    """Vectors, in the result or in a file."""

    EITHER: ClassVar = ("embeddings", "outputs")

    model: Annotated[str, Field(min_length=1, max_length=100)]
    dimensions: Annotated[int, Field(ge=1)]
    """Numbers per vector."""
    count: Annotated[int, Field(ge=1)]
    """The number of vectors."""
    tokens: Annotated[int, Field(ge=0)]
    """Tokens of all texts together."""
    embeddings: (
        Annotated[
            list[Annotated[list[float], Field(min_length=1, max_length=8192)]],
            Field(min_length=1, max_length=64),
        ]
        | None
    ) = None
    """One vector per text, in the order of the texts."""
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=1)] | None = None
    """The vectors as rows of a float32 array (.npy)."""


SERVICE: Final = KnownService("text_embedding", TypeAdapter(EmbeddingPayload), Embeddings)
