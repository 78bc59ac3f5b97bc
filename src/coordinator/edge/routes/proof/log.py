"""The log for auditors and monitors: checkpoints, tiles and entries by C2SP tlog-tiles, and proofs as JSON.

The log's URL is that of the coordinator: `<url>/checkpoint`, `<url>/tile/…`. Hashes and signatures are
public; entries name clients, so they are for admins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from starlette.responses import Response

from coordinator.application.proof.proofs import Proofs
from coordinator.crypto.log.tiles import WIDTH, BadTile, Tile, read_tile_path
from coordinator.domain.errors import Code, Refusal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.credentials import ReaderOfAll
from coordinator.edge.http.problems import Problem, refusals
from coordinator.edge.http.proving import WITHOUT_TREE, proof_refused
from coordinator.edge.http.reads.reading import reply
from coordinator.edge.models.proof import ConsistencyView, InclusionView, LogView
from coordinator.edge.state.threads import in_thread

MUTABLE: Final = "public, max-age=1"
FOR_EVER: Final = "public, max-age=31536000, immutable"
PARTIAL: Final = "public, max-age=60"
_OCTETS: Final[dict[str, Any]] = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
}
_NOTE: Final[dict[str, Any]] = {"text/plain": {"schema": {"type": "string"}}}
_ABSENT: Final = (Code.INVALID_PAYLOAD, Code.NOT_IN_CHECKPOINT, Code.INTERNAL, Code.UNAVAILABLE)

router = APIRouter(tags=["proof"])
proofs = APIRouter(tags=["proof"])
"""Under /v1."""
T = TypeVar("T")

Size = Annotated[int, Field(ge=0, le=2**63 - 1)]
_TILE_SCHEMA: Final[JsonDict] = {
    "pattern": r"^((x(?!000)[0-9]{3}/)(x[0-9]{3}/){0,4})?[0-9]{3}"
    r"(\.p/([1-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?$",
    "examples": ["x001/x234/067"],
}
TilePath = Annotated[
    str,
    Path(
        description="The tile's number in groups of three digits, such as `x001/x234/067`, or `000.p/17`.",
        json_schema_extra=_TILE_SCHEMA,  # checked here, so that a refusal has our own text
    ),
]


class InclusionQuery(BaseModel):
    """An event, and the tree that should have it."""

    model_config = ConfigDict(extra="forbid")

    position: Annotated[Size, Field(description="The event's position, as answers and events have it.")]
    size: Annotated[Size | None, Field(description="Of the tree; default: the published checkpoint's.")] = (
        None
    )


class ConsistencyQuery(BaseModel):
    """Two sizes of the log."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    old: Annotated[Size, Field(alias="from", description="The size of an earlier checkpoint.")]
    to: Annotated[Size | None, Field(description="A later size; default: the published checkpoint's.")] = None


@router.get(
    "/checkpoint",
    response_class=Response,
    summary="Get the log's checkpoint",
    description="The published checkpoint with its cosignatures, a signed note (C2SP tlog-checkpoint).",
    responses={200: {"description": "The note.", "content": _NOTE}, **refusals(*_ABSENT)},
)
async def get_checkpoint(context: Context) -> Response:
    published = await _ask(context, lambda proofs: proofs.published())
    return _bytes(published.signed.text.encode(), MUTABLE, "text/plain; charset=utf-8")


@router.get(
    "/tile/entries/{number:path}",
    response_class=Response,
    summary="Get 256 entries of the log",
    description="Leaves, each after its length in two bytes (C2SP tlog-tiles). They have clients' names.",
    responses={
        200: {"description": "The bundle.", "content": _OCTETS},
        **refusals(Code.UNAUTHORIZED_KEY, Code.FORBIDDEN, Code.RATE_LIMITED, *_ABSENT),
    },
)
async def get_entries(context: Context, _: ReaderOfAll, number: TilePath) -> Response:
    index, width = _tile_path(number)
    leaves = await _ask(context, lambda proofs: proofs.entries(index, width))
    bundle = b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)
    cache = FOR_EVER if width == WIDTH else PARTIAL
    return _bytes(bundle, cache.replace("public", "private"))


@router.get(
    "/tile/{level}/{number:path}",
    response_class=Response,
    summary="Get 256 hashes of the log's Merkle tree",
    description="Hashes of 32 bytes (C2SP tlog-tiles). A full tile never changes.",
    responses={200: {"description": "The hashes.", "content": _OCTETS}, **refusals(*_ABSENT)},
)
async def get_tile(
    context: Context,
    level: Annotated[str, Path(description="0 for leaves, up to 63.", pattern="^([0-9]|[1-5][0-9]|6[0-3])$")],
    number: TilePath,
) -> Response:
    index, width = _tile_path(number)
    content = await _ask(context, lambda proofs: proofs.tile(Tile(int(level), index), width))
    return _bytes(content, FOR_EVER if width == WIDTH else PARTIAL)


@proofs.get(
    "/log",
    response_model=LogView,
    summary="Show the log's name, key and checkpoint",
    description="The verifier key is that of the checkpoints. Get it from somebody whom you trust, too.",
    responses=refusals(Code.NOT_IN_CHECKPOINT, Code.UNAVAILABLE),
)
async def show_log(context: Context) -> Response:
    names = await _ask(context, lambda proofs: proofs.names())
    view = LogView(origin=names.origin, verifier_key=names.key.text, former_origins=list(names.former))
    try:
        published = await _ask(context, lambda proofs: proofs.published())
    except Refusal:
        return reply(view)
    found = {
        "size": published.size,
        "root": published.signed.checkpoint.root.hex(),
        "position": published.position,
        "signed_at": published.signed_at,
        "checkpoint": published.signed.text,
    }
    return reply(LogView.model_validate({**view.model_dump(), **found}))


@proofs.get(
    "/proofs/inclusion",
    response_model=InclusionView,
    summary="Prove that the log has an event",
    description="With the event's leaf (docs/auditing.md) and the checkpoint it verifies offline.",
    responses=refusals(Code.EVENT_NOT_FOUND, *_ABSENT),
)
async def prove_inclusion(context: Context, query: Annotated[InclusionQuery, Query()]) -> Response:
    proof, published = await _ask(context, lambda proofs: proofs.inclusion(query.position, query.size))
    return reply(
        InclusionView(
            origin=published.signed.checkpoint.origin,
            position=proof.position,
            index=proof.index,
            leaf_hash=proof.leaf_hash.hex(),
            size=proof.size,
            path=[h.hex() for h in proof.path],
            checkpoint=published.signed.text,
        )
    )


@proofs.get(
    "/proofs/consistency",
    response_model=ConsistencyView,
    summary="Prove that the log only grew",
    description="From an earlier checkpoint's size to a later one's.",
    responses=refusals(*_ABSENT),
)
async def prove_consistency(context: Context, query: Annotated[ConsistencyQuery, Query()]) -> Response:
    size, path, published = await _ask(context, lambda proofs: proofs.consistency(query.old, query.to))
    return reply(
        ConsistencyView(
            origin=published.signed.checkpoint.origin,
            old_size=query.old,
            size=size,
            path=[h.hex() for h in path],
            checkpoint=published.signed.text,
        )
    )


def _tile_path(text: str) -> tuple[int, int]:
    try:
        number, width = read_tile_path(text)
    except BadTile as error:
        raise Refusal(Code.INVALID_PAYLOAD, str(error)) from None
    if number >= 2**55:  # no tree of less than 2**63 leaves has it, nor a column of the table
        raise Refusal(Code.NOT_IN_CHECKPOINT, "no log has so many tiles")
    return number, width


async def _ask(context: EdgeContext, question: Callable[[Proofs], T]) -> T:
    proofs = context.proofs
    if proofs is None:
        raise Problem(Code.UNAVAILABLE, WITHOUT_TREE)
    with proof_refused():
        return await in_thread(lambda: question(proofs))


def _bytes(content: bytes, cache: str, media_type: str = "application/octet-stream") -> Response:
    return Response(content, headers={"Cache-Control": cache}, media_type=media_type)
