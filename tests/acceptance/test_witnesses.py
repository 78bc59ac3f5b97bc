"""Two coordinators witness each other, as their operators would set it up: processes, HTTP, commands."""

from __future__ import annotations

import json
import shutil
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    log_key,
    read_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from coordinator.crypto.log.note import Algorithm, VerifierKey
from coordinator.dev.servers.processes import free_port
from coordinator.wire.witnessing import AddCheckpoint
from tests.acceptance.cli_process import run
from tests.harness.processes import Process
from tests.harness.stage import Stage
from tests.harness.waiting import eventually

SEEDS = {"one": "1a" * 32, "two": "2b" * 32}
ORIGINS = {"one": "one.example/log", "two": "two.example/log"}
KEYS = {name: SigningKey.from_hex(seed) for name, seed in SEEDS.items()}
LOG_KEYS = {name: log_key(KEYS[name], ORIGINS[name]) for name in SEEDS}


class WitnessProcess:
    """A `coordinator witness` of one operator for the log of the other one."""

    def __init__(self, stage: Stage, operator: str, watches: str) -> None:
        self.folder = stage.folder / f"witness-{operator}"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._stage, self._operator, self._watches = stage, operator, watches
        self.process = self.start()

    def start(self) -> Process:
        port = self.url.rpartition(":")[2]
        log = LOG_KEYS[self._watches].text
        name = f"{self._operator}.example/witness"
        return self._stage.command(
            "witness", "--name", name, "--log", log, "--folder", str(self.folder), "--port", port, "--json"
        )

    async def key(self) -> VerifierKey:
        """The key that it shows at its address."""

        def shown() -> VerifierKey:
            return VerifierKey.parse(urllib.request.urlopen(self.url, timeout=5).read().decode().strip())

        return await eventually(shown, "a witness that answers")


def published(stage: Stage, name: str) -> SignedCheckpoint:
    return read_checkpoint(urllib.request.urlopen(f"{stage.urls[name]}/checkpoint", timeout=10).read())


async def test_two_coordinators_witness_each_other(tmp_path: Path) -> None:
    """Each publishes checkpoints that the other's witness has signed; a witness that is away comes back."""
    with Stage(tmp_path) as stage:
        witnesses = {
            "one": WitnessProcess(stage, "one", watches="two"),
            "two": WitnessProcess(stage, "two", watches="one"),
        }
        keys = {name: await witness.key() for name, witness in witnesses.items()}
        for name, other in (("one", "two"), ("two", "one")):
            stage.coordinator(
                name,
                receipt_signing_key_hex=SEEDS[name],
                log_origin=ORIGINS[name],
                witnesses=f"{witnesses[other].url} {keys[other].text}",
                witness_quorum=1,
            )
        for name, other in (("one", "two"), ("two", "one")):
            await stage.ready(name)
            signed = await eventually(partial(published, stage, name), "a checkpoint with its quorum")
            verified = verify_checkpoint(signed, [LOG_KEYS[name]], [keys[other]])
            assert [keys[other]] == [key for key, _ in verified.cosignatures]
            assert "1 of 1" == stage.health(name)["log"]["witnesses"]

        # Without its witness the log goes on, and what is published stands still.
        witnesses["two"].process.kill()
        before = published(stage, "one").checkpoint.size
        async with stage.client(coordinator="one") as client:
            await client.submit("checksum", {"text": "x"})
        await eventually(lambda: stage.health("one")["warnings"], "a warning of the missing witness")
        assert stage.health("one")["ready"]
        assert before == published(stage, "one").checkpoint.size
        assert before < stage.health("one")["log"]["size"]
        witnesses["two"].start()
        grown = await eventually(lambda: published(stage, "one").checkpoint.size > before, "signed again")
        assert grown

        # A second history of the first log is refused by the witness of the second, which keeps what it has.
        size = published(stage, "one").checkpoint.size
        forged = sign_checkpoint(KEYS["one"], Checkpoint(ORIGINS["one"], size, bytes(32)))
        async with httpx.AsyncClient() as http:
            answer = await http.post(
                witnesses["two"].url + "/add-checkpoint", content=AddCheckpoint(size, [], forged).encode()
            )
            assert (409, f"{size}\n") == (answer.status_code, answer.text)
            assert "text/x.tlog.size" == answer.headers["content-type"]
            too_long = await http.post(witnesses["two"].url + "/add-checkpoint", content=b"x" * 200_000)
            assert 413 == too_long.status_code
            elsewhere = await http.get(witnesses["two"].url + "/add-checkpoint")
            assert 405 == elsewhere.status_code

        # The two checkpoints are the proof, which the command shows.
        (tmp_path / "seen.txt").write_text(published(stage, "one").text)
        (tmp_path / "forged.txt").write_text(forged.text)
        trusted = LOG_KEYS["one"].text
        compared = run(
            tmp_path, "checkpoint", "compare", "seen.txt", "forged.txt", "--trusted", trusted, "--json"
        )
        assert 7 == compared.code
        assert "split view" == compared.json()["verdict"]
        assert {published(stage, "one").text, forged.text} == set(compared.json()["proof"])
        assert "SPLIT_VIEW" == json.loads(compared.err)["code"]

        verified_by_command = run(
            tmp_path,
            *("checkpoint", "verify", stage.urls["one"], "--trusted", trusted),
            *("--witness", keys["two"].text, "--json"),
        )
        assert 0 == verified_by_command.code, verified_by_command.err
        assert ["two.example/witness"] == [c["witness"] for c in verified_by_command.json()["cosignatures"]]
        (tmp_path / "older.txt").write_text(
            sign_checkpoint(KEYS["one"], published(stage, "one").checkpoint).text
        )
        async with stage.client(coordinator="one") as client:
            await client.submit("checksum", {"text": "y"})
        await eventually(lambda: published(stage, "one").checkpoint.size > size, "a larger checkpoint")
        grown_too = run(
            tmp_path, "checkpoint", "compare", "older.txt", stage.urls["one"], "--trusted", trusted, "--json"
        )
        assert (0, "grown") == (grown_too.code, grown_too.json()["verdict"])


async def test_a_witness_finds_out_a_restored_log(tmp_path: Path) -> None:
    """Where the file goes with the backup, a witness still knows: the older copy is not signed."""
    data = tmp_path / "data-two"
    with Stage(tmp_path) as stage:
        witness = WitnessProcess(stage, "one", watches="two")
        settings: dict[str, Any] = {
            "receipt_signing_key_hex": SEEDS["two"],
            "log_origin": ORIGINS["two"],
            "checkpoint_file": "off",
            "witnesses": f"{witness.url} {(await witness.key()).text}",
            "witness_quorum": 1,
        }
        first = stage.coordinator("two", **settings)
        await stage.ready("two")
        await eventually(partial(published, stage, "two"), "a checkpoint with its quorum")
        first.stop()
        shutil.copytree(data, tmp_path / "copy")
        second = stage.coordinator("two", **settings)
        await stage.ready("two")
        before = published(stage, "two").checkpoint.size
        async with stage.client(coordinator="two") as client:
            await client.submit("checksum", {"text": "x"})
        await eventually(lambda: published(stage, "two").checkpoint.size > before, "a larger checkpoint")
        larger = published(stage, "two").checkpoint.size
        second.stop()
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "copy", data)
        stage.coordinator("two", **settings)

        await eventually(
            lambda: any("LogWentBack" in r for r in stage.health("two")["reasons"]), "a red health"
        )
        [reason] = [r for r in stage.health("two")["reasons"] if r.startswith("notary")]
        assert f"the witness one.example/witness has its checkpoint of {larger}" in reason
        assert before == published(stage, "two").checkpoint.size


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("checkpoint", "verify", "good.txt"), 2, "USAGE"),
        (("checkpoint", "verify", "good.txt", "--trusted", "x"), 2, "USAGE"),
        (("checkpoint", "verify", "missing.txt", "--trusted", LOG_KEYS["one"].text), 2, "USAGE"),
        (("checkpoint", "verify", "spoilt.txt", "--trusted", LOG_KEYS["one"].text), 7, "NOT_VERIFIED"),
        (("checkpoint", "verify", "good.txt", "--trusted", LOG_KEYS["two"].text), 7, "NOT_VERIFIED"),
        (
            ("checkpoint", "verify", "good.txt", "--trusted", LOG_KEYS["one"].text, "--quorum", "1"),
            7,
            "NOT_VERIFIED",
        ),
        (("checkpoint", "compare", "good.txt", "good.txt"), 2, "USAGE"),
        (("checkpoint", "show"), 4, "NOT_FOUND"),
        (("checkpoint", "key"), 4, "NOT_FOUND"),
        (("log", "continue-as", "a", "--reason", "x"), 4, "NOT_FOUND"),
        (("witness", "--name", "w"), 2, "USAGE"),
        (("witness", "--name", "w", "--log", "x"), 2, "USAGE"),
        (("witness", "--name", "a b", "--log", LOG_KEYS["one"].text), 2, "USAGE"),
    ],
)
def test_bad_input_of_the_commands(tmp_path: Path, arguments: tuple[str, ...], code: int, error: str) -> None:
    """Missing keys, spoilt files and logs that are not there end with a code and a next step."""
    good = sign_checkpoint(KEYS["one"], Checkpoint(ORIGINS["one"], 5, bytes(32)))
    (tmp_path / "good.txt").write_text(good.text)
    (tmp_path / "spoilt.txt").write_text(good.text.replace("\n5\n", "\n6\n"))
    ran = run(tmp_path, *arguments, "--json")

    assert (code, error) == (ran.code, json.loads(ran.err)["code"])
    assert json.loads(ran.err)["next_step"]


def test_keys_of_logs_are_no_witnesses(tmp_path: Path) -> None:
    """A witness in the settings needs the key of cosignatures, a name of its own, and no larger quorum."""
    cosigner = VerifierKey.of(KEYS["one"], "w", Algorithm.COSIGNATURE).text
    for witnesses, quorum in (
        (f"http://a {LOG_KEYS['one'].text}", "0"),
        (f"ftp://a {cosigner}", "0"),
        (f"http://a {cosigner}, http://b {cosigner}", "0"),
        (f"http://a {cosigner}", "2"),
    ):
        ran = run(tmp_path, "checkpoint", "show", "--json", WITNESSES=witnesses, WITNESS_QUORUM=quorum)
        assert (2, "SETTINGS") == (ran.code, json.loads(ran.err)["code"])
