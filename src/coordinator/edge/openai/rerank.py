"""Rerank: documents, sorted by how well they answer a query. Jina's and Cohere's form: OpenAI has none."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.edge.http.bodies import read_object
from coordinator.edge.http.problems import Problem
from coordinator.edge.openai.answers import answer, openai_responses
from coordinator.edge.openai.errors import NO_RETRY, TAG, bad_request
from coordinator.edge.openai.requests import Model, OpenAIRequest
from coordinator.edge.openai.runs import RunnerOfRequest
from coordinator.services.reranking import MAX_DOCUMENTS, Document, Query, documents_fault

SERVICE: Final = "reranking"

router = APIRouter(prefix="/rerank", tags=[TAG])


def _text(document: Any) -> Any:
    """The text of a document, also of one in the form of an object."""
    return document["text"] if isinstance(document, dict) and document.keys() == {"text"} else document


class RerankRequest(OpenAIRequest):
    """A query and its documents."""

    HERE: ClassVar = frozenset({"model", "return_documents"})

    model: Model
    query: Query
    documents: Annotated[
        list[Annotated[Document, BeforeValidator(_text)]],
        Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True),
    ]
    """Texts, or objects with a `text`."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False

    def job_payload(self) -> dict[str, Any]:
        """The job's payload. Raises Problem for documents that are too large together."""
        if fault := documents_fault(self.documents):
            raise bad_request("documents", fault)
        sent = {"model": self.model, "query": self.query, "documents": self.documents}
        # As at Jina, more than there are means all.
        return sent if self.top_n is None else {**sent, "top_n": min(self.top_n, len(self.documents))}


class RankedText(BaseModel):
    text: str


class RankedResult(BaseModel):
    """A document's place in the request, and its score: higher is more relevant."""

    index: int
    relevance_score: float
    document: RankedText | None = None


class RerankUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class RankedList(BaseModel):
    """The documents, the most relevant first."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RankedResult]
    usage: RerankUsage


@router.post(
    "",
    response_model=RankedList,
    response_model_exclude_none=True,
    summary="Rerank documents",
    description="Not in OpenAI's API: the form is Jina's and Cohere's, as vLLM and llama.cpp have it.",
    responses=openai_responses(),
    openapi_extra=RerankRequest.body(
        model="bge-reranker-v2-m3",
        query="where can I rent a GPU?",
        documents=["Cats sleep all day.", "We rent GPUs by the hour."],
        top_n=1,
    ),
)
async def create_ranking(request: Request, runner: RunnerOfRequest) -> Response:
    asked = RerankRequest.read(await read_object(request, runner.context.limits))
    payload = asked.job_payload()
    runner.know(type(asked).model_fields, {})
    done = await runner.run(SERVICE, asked.model, payload)
    check_ranking([one["index"] for one in done.result["results"]], len(asked.documents))
    results = [
        RankedResult(
            index=one["index"],
            relevance_score=one["relevance_score"],
            document=RankedText(text=asked.documents[one["index"]]) if asked.return_documents else None,
        )
        for one in done.result["results"]
    ]
    tokens = done.result["tokens"]
    ranking = RankedList(
        id=runner.id_of("rerank"),
        model=asked.model,
        results=results,
        usage=RerankUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return answer(ranking.model_dump(exclude_none=True), done.job_id)


def check_ranking(places: list[int], documents: int) -> None:
    """Raise Problem unless each place is that of another one of the documents."""
    if len(set(places)) != len(places) or not all(0 <= place < documents for place in places):
        raise Problem(Code.INTERNAL, "the miner's ranking does not fit the documents", headers=NO_RETRY)
