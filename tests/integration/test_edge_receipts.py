"""Receipts, their promises, and the keys that sign them, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.receipt import verify_receipt
from coordinator.runtime.signing import SIGNING_KEY_FILE
from tests.integration.edge_bench import Bench, an_edge

FIRST, SECOND, ATTESTER = "11" * 32, "22" * 32, "33" * 32
KEYS = "/.well-known/coordinator/keys"


def key_id(seed: str) -> str:
    return SigningKey.from_hex(seed).key_id


async def receipt_of(edge: Bench, job: str) -> dict[str, Any]:
    answer = await edge.alice.get(f"/v1/jobs/{job}/receipt")
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def test_a_promise_agrees_with_its_receipt(any_edge: Bench) -> None:
    """In both modes: the same bytes each time, and every member of the promise but its signature."""
    edge = any_edge
    await edge.register()
    job = (await edge.submit(edge.alice))["job_id"]
    done = await edge.complete(await edge.poll(), {"text": "hello"})
    trusted, miners = [edge.coordinator.signing_key_id], {"rig": edge.keys["rig"].key_id}
    first, second = [await edge.alice.get(f"/v1/jobs/{job}/receipt") for _ in range(2)]
    assert first.content == second.content
    receipt, promise = first.json(), done.json()["promise"]
    assert not verify_receipt(receipt, trusted, miners).is_promise
    assert verify_receipt(promise, trusted).is_promise
    del receipt["signature"], receipt["attestations"], receipt["metadata"]["statement"], promise["signature"]
    assert receipt == promise
    [shown] = (await edge.anyone.get(KEYS)).json()["keys"]
    assert (trusted[0], "current", None) == (shown["key_id"], shown["state"], shown["until"])


async def test_a_rotation_changes_no_receipt(tmp_path: Path) -> None:
    """Each job's receipt is signed with the key of its time, also when it is first asked for afterwards."""
    async with an_edge(tmp_path, receipt_signing_key_hex=FIRST) as edge:
        await edge.register()
        asked, unasked = [await edge.finish(edge.alice, {"n": n}) for n in range(2)]
        before = await edge.alice.get(f"/v1/jobs/{asked}/receipt")
        rig = edge.keys["rig"].key_id
    async with an_edge(tmp_path, receipt_signing_key_hex=FIRST) as edge:  # the same key is no news
        assert 1 == len((await edge.anyone.get(KEYS)).json()["keys"])
    rotated = {"receipt_signing_key_hex": SECOND, "receipt_retired_keys_hex": FIRST}
    async with an_edge(tmp_path, **rotated) as edge:
        assert before.content == (await edge.alice.get(f"/v1/jobs/{asked}/receipt")).content
        old = verify_receipt(await receipt_of(edge, unasked), [key_id(FIRST)], {"rig": rig})
        assert key_id(FIRST) == old.key_id
        await edge.register()
        later = await edge.finish(edge.alice, {"n": 3})
        assert key_id(SECOND) == verify_receipt(await receipt_of(edge, later), [key_id(SECOND)]).key_id
        answer = await edge.anyone.get(KEYS)
        retired, current = answer.json()["keys"]
        assert (key_id(FIRST), "retired", current["after"]) == (
            retired["key_id"],
            retired["state"],
            retired["until"],
        )
        assert (key_id(SECOND), "current", None) == (current["key_id"], current["state"], current["until"])
        assert retired["after"] < current["after"]
        assert "public, max-age=60" == answer.headers["Cache-Control"]
        assert all(seed * 8 not in answer.text for seed in ("11", "22"))


async def test_a_receipt_of_a_lost_key_says_so(tmp_path: Path) -> None:
    """The current key signs it, and the receipt names the key of its time; that, too, is always the same."""
    async with an_edge(tmp_path, receipt_signing_key_hex=FIRST) as edge:
        await edge.register()
        job = await edge.finish(edge.alice, {"n": 1})
    async with an_edge(tmp_path, receipt_signing_key_hex=SECOND) as edge:
        receipt = await receipt_of(edge, job)
    assert key_id(SECOND) == verify_receipt(receipt, [key_id(SECOND)]).key_id
    assert key_id(FIRST) == receipt["metadata"]["recorded_under"]
    async with an_edge(tmp_path, receipt_signing_key_hex=SECOND) as edge:
        assert receipt == await receipt_of(edge, job)


async def test_a_replaced_key_file_still_signs_its_time(tmp_path: Path) -> None:
    """A coordinator that made its own key and then gets one by a setting needs no other one."""
    async with an_edge(tmp_path) as edge:
        await edge.register()
        job = await edge.finish(edge.alice, {"n": 1})
        own = edge.coordinator.signing_key_id
    assert (tmp_path / SIGNING_KEY_FILE).exists()
    async with an_edge(tmp_path, receipt_signing_key_hex=SECOND) as edge:
        assert own == verify_receipt(await receipt_of(edge, job), [own]).key_id


@pytest.mark.parametrize("seed", [ATTESTER, None])
async def test_receipts_are_attested_if_there_is_a_key_for_it(tmp_path: Path, seed: str | None) -> None:
    """By the key that is published for that; without the setting there is none."""
    settings = {} if seed is None else {"receipt_attestation_key_hex": seed}
    async with an_edge(tmp_path, receipt_signing_key_hex=FIRST, **settings) as edge:
        await edge.register()
        receipt = await receipt_of(edge, await edge.finish(edge.alice, {"n": 1}))
        expected = [] if seed is None else [key_id(seed)]
        assert expected == [a.key_id for a in verify_receipt(receipt, [key_id(FIRST)]).attestations]
        named = (await edge.anyone.get(KEYS)).json()["attestation_key_id"]
        assert (None if seed is None else key_id(seed)) == named
