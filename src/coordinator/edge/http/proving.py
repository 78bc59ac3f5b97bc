"""Reads of proofs: their errors as refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coordinator.application.proof.errors import LogRewritten
from coordinator.application.proof.proofs import BeyondTheCheckpoint, NoProof, NotPublished, UnknownPosition
from coordinator.domain.errors import Code, Refusal
from coordinator.edge.http.problems import Problem

WITHOUT_TREE = "this process keeps no Merkle tree; ask another one"


@contextmanager
def proof_refused() -> Iterator[None]:
    """Raise Refusal or Problem in place of the errors of `application.proof`."""
    try:
        yield
    except UnknownPosition as error:
        raise Refusal(Code.EVENT_NOT_FOUND, str(error)) from None
    except (NotPublished, BeyondTheCheckpoint) as error:
        raise Refusal(Code.NOT_IN_CHECKPOINT, str(error)) from None
    except NoProof as error:
        raise Problem(Code.UNAVAILABLE, str(error)) from None
    except LogRewritten as error:
        raise Problem(Code.INTERNAL, str(error)) from None
