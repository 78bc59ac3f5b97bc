"""The keys that a verifier trusts, and nobody who made the passport can choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from coordinator.crypto.keys import EncodingError, check_key_id, decode_base64url
from coordinator.crypto.log.note import Algorithm, BadNote, VerifierKey


class Trust(NamedTuple):
    """What the verifier brings."""

    coordinator: tuple[str, ...] | None
    """Ids of the coordinator's keys; None trusts none: then the passport is only whole, whoever made it."""
    logs: tuple[VerifierKey, ...] = ()
    """Those of `coordinator` that count for the checkpoints of one log only."""
    witnesses: tuple[VerifierKey, ...] = ()
    quorum: int = 1
    """How many of the witnesses must have signed, if there are any."""
    miners: Mapping[str, str] = {}
    """Key ids by miner."""

    def keys_of(self, origin: str) -> list[VerifierKey]:
        """The trusted keys for checkpoints of this log."""
        bound = {key.key_id for key in self.logs}
        free = [k for k in self.coordinator or () if k not in bound]
        named = [VerifierKey(origin, Algorithm.NOTE, decode_base64url(key)) for key in free]
        return [*named, *(key for key in self.logs if key.name == origin)]


def trust_of(
    trusted: Iterable[str] | None,
    witnesses: Iterable[str] = (),
    miners: Mapping[str, str] | None = None,
    quorum: int = 1,
) -> Trust:
    """From texts. A coordinator's key is a key id (43 characters), or a verifier key `origin+hash+base64`.

    Raises ValueError, whose text names the unusable key.
    """
    ids: list[str] | None = None
    logs: list[VerifierKey] = []
    for text in () if trusted is None else trusted:
        ids = ids or []
        if "+" in text:
            key = _verifier_key(text, Algorithm.NOTE)
            logs.append(key)
            ids.append(key.key_id)
        else:
            _check(text)
            ids.append(text)
    if trusted is not None and ids is None:
        raise ValueError("name at least one key")
    for key_id in (miners or {}).values():
        _check(key_id)
    cosigners = tuple(dict.fromkeys(_verifier_key(text, Algorithm.COSIGNATURE) for text in witnesses))
    if cosigners and not 1 <= quorum <= len(cosigners):
        raise ValueError(f"a quorum of {quorum} can't be reached by {len(cosigners)} witnesses")
    return Trust(None if ids is None else tuple(ids), tuple(logs), cosigners, quorum, dict(miners or {}))


def _verifier_key(text: str, algorithm: Algorithm) -> VerifierKey:
    try:
        key = VerifierKey.parse(text)
    except BadNote as error:
        raise ValueError(f"{text}: {error}") from None
    if key.algorithm is not algorithm:
        kind = "a witness's" if algorithm is Algorithm.COSIGNATURE else "a log's"
        raise ValueError(f"{text}: not {kind} key: its algorithm is {key.algorithm}, not {int(algorithm)}")
    return key


def _check(key_id: str) -> None:
    try:
        check_key_id(key_id)
    except EncodingError as error:
        raise ValueError(f"{key_id}: {error}") from None
