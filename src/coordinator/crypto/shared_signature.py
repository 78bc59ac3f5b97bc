"""Signatures that several documents share, which makes signing and checking cheap.

The documents are the leaves of a Merkle tree. The signature covers the root, and each document's signature
holds its inclusion proof (`tree`). So each document proves itself, without the others.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.merkle import leaf_hash, root_and_paths, root_of_path
from coordinator.crypto.signature import SIGNATURE_MEMBER, Signature, StrictModel, sign

MAX_PATH: Final = 20
TREE_VERSION: Final = "1"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in lowercase hex")]


class InclusionProof(StrictModel):
    """The proof that a document is the `index`-th of `size` in the tree whose root was signed.

    `path` holds the hashes from the document to the root, from the bottom up (RFC 6962, section 2.1.1).
    """

    index: Annotated[int, Field(ge=0, lt=2**MAX_PATH)]
    size: Annotated[int, Field(ge=1, le=2**MAX_PATH)]
    path: Annotated[list[Digest], Field(max_length=MAX_PATH)]


class TreeSignature(Signature):
    """A signature over the root of a tree with the document."""

    tree: InclusionProof


def sign_together(
    key: SigningKey, kind: str, documents: Sequence[tuple[Mapping[str, Any], bytes]]
) -> list[dict[str, Any]]:
    """Each document with its `signature`; one signature for all of them.

    `documents`: the content of each, without a signature, and its canonical bytes. `kind`: the plural of what
    they are, which the signature covers. Raises ValueError without documents.
    """
    size = len(documents)
    root, paths = root_and_paths([leaf_hash(message) for _, message in documents])
    signature = sign(key, tree_message(kind, root, size))
    return [
        {
            **content,
            SIGNATURE_MEMBER: {
                **signature,
                "tree": {"index": index, "size": size, "path": [sibling.hex() for sibling in path]},
            },
        }
        for index, ((content, _), path) in enumerate(zip(documents, paths, strict=True))
    ]


def tree_message(kind: str, root: bytes, size: int) -> bytes:
    """The signed bytes of a tree of documents; no document has this form."""
    members = {kind: str(size), "root": f'"{root.hex()}"', "version": f'"{TREE_VERSION}"'}
    # Canonical as written: nothing needs an escape.
    return ("{" + ",".join(f'"{name}":{members[name]}' for name in sorted(members)) + "}").encode()


def message_in_tree(kind: str, message: bytes, tree: Mapping[str, Any]) -> bytes | None:
    """The signed bytes that follow from a valid `InclusionProof`; None if its path does not fit."""
    path = [bytes.fromhex(sibling) for sibling in tree["path"]]
    root = root_of_path(leaf_hash(message), tree["index"], tree["size"], path)
    return None if root is None else tree_message(kind, root, tree["size"])
