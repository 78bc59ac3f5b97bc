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
    Whole,
)

MAX_TEXT_CHARACTERS: Final = 100_000
"""Of one text; the model's context ends it earlier."""
MAX_TEXTS: Final = 2048
MAX_DIMENSIONS: Final = 65_536
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
    """`texts`, or their `tokens`, or `input_url`: a file with one text a line."""

    EITHER: ClassVar = ("texts", "tokens", "input_url")

    texts: Annotated[
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)]],
            Field(min_length=1, max_length=MAX_TEXTS),
        ]
        | None,
        NOT_NULL,
    ] = None
    """Texts. Many or long vectors become a NumPy file instead of a part of the result."""
    tokens: Annotated[
        Annotated[
            list[
                Annotated[
                    list[Annotated[int, Field(ge=0, lt=2**31), Whole]],
                    Field(min_length=1, max_length=MAX_TEXT_CHARACTERS),
                ]
            ],
            Field(min_length=1, max_length=MAX_TEXTS),
        ]
        | None,
        NOT_NULL,
    ] = None
    """Texts as tokens, by their ids in the model's own vocabulary; not every engine takes them."""
    input_url: Annotated[FileRef | None, NOT_NULL] = None
    """A UTF-8 file with one text a line; its vectors become a NumPy file."""
    model: ModelName = Field("all-minilm-l6-v2", examples=list(MODELS))
    """A model that a miner offers. bge-m3 and multilingual-e5-large know a hundred languages."""
    kind: Literal["document", "query"] = "document"
    """Some models embed search queries differently from documents."""
    dimensions: Annotated[int, Field(ge=1, le=MAX_DIMENSIONS), Whole] | None = None
    """Numbers per vector, for models that can give fewer; otherwise it must be the model's own number."""
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
            list[Annotated[list[float], Field(min_length=1, max_length=MAX_DIMENSIONS)]],
            Field(min_length=1, max_length=MAX_TEXTS),
        ]
        | None
    ) = None
    """One vector per text, in the order of the texts, if they fit in a message."""
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=1)] | None = None
    """The vectors as rows of a float32 array (.npy)."""


SERVICE: Final = KnownService("text_embedding", TypeAdapter(EmbeddingPayload), Embeddings)
