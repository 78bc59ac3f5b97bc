"""Ids in paths that have fixed paths beside them.

`/jobs/batch` takes no GET, and no job has the id `batch`. So a GET of it is no GET of a job with an invalid
id, which would be refused as such: it is a method that the path has not.
"""

from __future__ import annotations

from typing import Final

from starlette.convertors import Convertor, register_url_convertor

_PREFIX: Final = "other_than_"


class OtherThan(Convertor[str]):
    """One segment of a path that is none of a few words; `regex` says which."""

    def convert(self, value: str) -> str:
        """The segment as it is: the endpoint's parameter says which ids are valid."""
        return value

    def to_string(self, value: str) -> str:
        """The id as it is."""
        return value


def path_id(name: str, *, other_than: tuple[str, ...]) -> str:
    """The segment of a route's path for this parameter; `other_than`: the fixed paths in its place."""

    class PathId(OtherThan):
        regex = f"(?!(?:{'|'.join(other_than)})(?:/|$))[^/]+"

    kind = _PREFIX + "_".join(other_than)
    register_url_convertor(kind, PathId())
    return f"{{{name}:{kind}}}"
