"""The witnesses in the settings. Apart from what asks them: reading settings needs no HTTP."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.crypto.log.note import Algorithm, BadNote, VerifierKey


class BadWitness(ValueError):
    """A witness in the settings is not a URL and its verifier key; the text says why."""


class WitnessAddress(NamedTuple):
    """A witness: the URL of its server, and the key of its cosignatures."""

    url: str
    key: VerifierKey

    @classmethod
    def parse(cls, text: str) -> WitnessAddress:
        """`https://host/path name+hash+base64`. Raises BadWitness."""
        url, _, key = text.strip().partition(" ")
        if not url.startswith(("http://", "https://")):
            raise BadWitness("a witness is its URL, a space, and its verifier key")
        try:
            parsed = VerifierKey.parse(key.strip())
        except BadNote as error:
            raise BadWitness(str(error)) from None
        if parsed.algorithm is not Algorithm.COSIGNATURE:
            raise BadWitness("this is the key of a log; a witness shows its own at its URL")
        return cls(url.rstrip("/"), parsed)
