"""Typed services: what is asked in a service's own words becomes a job that its miners can take."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from typing import Any

import httpx
import pytest

from coordinator.services.catalog import load_catalog
from coordinator.services.speech_recognition import Transcript
from tests.harness.cases import every
from tests.harness.live import read_events
from tests.integration.edge_bench import Bench, Catalogue, key_of, whole_catalogue
from tests.integration.test_edge_server import serving

SOUND = bytes(range(256)) * 999
URL = "https://example.com/some.file"
MADE = b"what a miner made"
RESULTS: dict[str, Any] = json.loads(
    re.sub(
        r"blob:[0-9a-f]{64}",
        f"blob:{hashlib.sha256(MADE).hexdigest()}",
        json.dumps({entry["id"]: entry["output_schema"]["examples"][0] for entry in load_catalog()}),
    )
)
CARD = {"name": "NVIDIA GeForce RTX 4090", "memory_mb": 24564}
ABLE = {
    "services": sorted(RESULTS),
    "gpus": [CARD],
    "cuda": "12.4",
    "models": ["mistral-7b", "own/model"],
    "price": "0",
}

CASES: list[tuple[str, dict[str, Any], str, dict[str, Any], dict[str, Any]]] = [
    # endpoint, body, service, payload, constraints
    (
        "whisper/transcribe",
        {"audio_url": URL, "model": "medium", "language": "de"},
        "speech_recognition",
        {"audio_url": URL, "model": "medium", "language": "de"},
        {"min_vram_gb": 5},
    ),
    (
        "whisper/translate",
        {"audio_url": URL, "constraints": {"min_vram_gb": 8, "region": "eu"}},
        "speech_recognition",
        {"audio_url": URL, "task": "translate"},
        {"min_vram_gb": 8, "region": "eu"},
    ),
    (
        "stable-diffusion/generate",
        {"prompt": "a lighthouse", "model": "sdxl-turbo", "constraints": {"cuda": "9.0", "min_vram_gb": 1}},
        "image_generation",
        {"prompt": "a lighthouse", "model": "sdxl-turbo"},
        {"cuda": "11.8", "min_vram_gb": 8},
    ),
    (
        "stable-diffusion/img2img",
        {"prompt": "in winter", "image_url": URL, "strength": 0.5, "seed": [1, 2]},
        "image_generation",
        {"prompt": "in winter", "image_url": URL, "strength": 0.5, "seed": [1, 2]},
        {"cuda": "11.8", "min_vram_gb": 4},
    ),
    (
        "llm/inference",
        {"model": "mistral-7b", "prompt": "x", "constraints": {"cuda": "12.1", "models": ["own/model"]}},
        "llm_inference",
        {"model": "mistral-7b", "prompt": "x"},
        {"cuda": "12.1", "min_vram_gb": 8, "models": ["mistral-7b", "own/model"]},
    ),
    (
        "llm/inference",
        {"model": "own/model", "prompt": "x", "stop_sequences": ["\n"]},
        "llm_inference",
        {"model": "own/model", "prompt": "x", "stop_sequences": ["\n"]},
        {"models": ["own/model"]},
    ),
    (
        "ffmpeg/transcode",
        {"input_url": URL, "output_format": "webm", "codec": "vp9", "audio_codec": "opus"},
        "video_transcoding",
        {"input_url": URL, "output_format": "webm", "codec": "vp9", "audio_codec": "opus"},
        {},
    ),
    (
        "ffmpeg/transcode",
        {"input_url": URL, "codec": "h265_nvenc", "constraints": {"gpu": "rtx 4090"}},
        "video_transcoding",
        {"input_url": URL, "codec": "h265_nvenc"},
        {"gpu": "rtx-4090"},
    ),
    (
        "blender/render",
        {"blend_file_url": URL, "frame_start": 1, "frame_end": 4, "priority": 3},
        "3d_rendering",
        {"blend_file_url": URL, "frame_start": 1, "frame_end": 4},
        {},
    ),
]


@pytest.fixture
def catalogue() -> Catalogue:
    return whole_catalogue


async def ask(client: httpx.AsyncClient, path: str, **request: Any) -> httpx.Response:
    return await client.post(f"/v1/services/{path}", **request)


async def job_of(edge: Bench, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 201, answer.text
    told = answer.json()
    headers = {"X-At-Least": str(told["position"])}
    job: dict[str, Any] = (await edge.alice.get(answer.headers["location"], headers=headers)).json()
    return job


def refused(answer: httpx.Response, status: int = 422, code: str = "INVALID_PAYLOAD") -> str:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    detail: str = answer.json()["detail"]
    return detail


async def test_each_service_makes_the_job_that_its_miners_take(any_edge: Bench) -> None:
    """The body's own fields are the payload, and what the work needs is asked of the miner, never less."""
    edge = any_edge
    await edge.register(capabilities=ABLE)
    await edge.rig.put(f"/v1/blobs/{hashlib.sha256(MADE).hexdigest()}", content=MADE)
    for path, body, service, payload, constraints in CASES:
        region = constraints.get("region")
        job = await job_of(edge, await ask(edge.alice, path, json=body))
        told = {name: value for name, value in job["constraints"].items() if value not in (None, [])}
        assert (job["service"], told) == (service, constraints)
        assert job["priority"] == body.get("priority", 0)
        if region:
            await edge.alice.post(f"/v1/jobs/{job['job_id']}/cancel", json={})
            continue
        offer = await edge.poll()
        assert (offer["job_id"], offer["payload"]) == (job["job_id"], payload)
        answer = await edge.complete(offer, RESULTS[service])
        assert answer.status_code == 200


async def test_one_request_is_enough_for_a_short_job(any_edge: Bench) -> None:
    """With `Prefer: wait=N` the answer waits for the end, and has the result, in the service's own shape."""
    edge = any_edge
    await edge.register(capabilities=ABLE)
    asking = asyncio.create_task(
        ask(edge.alice, "whisper/transcribe", json={"audio_url": URL}, headers={"Prefer": "wait=30"})
    )
    offer = await edge.poll()
    await edge.complete(offer, RESULTS["speech_recognition"])
    answer = await asking

    assert (answer.status_code, answer.headers["preference-applied"]) == (201, "wait=30")
    told = answer.json()
    assert (told["state"], "error" in told) == ("COMPLETED", False)
    transcript = Transcript.model_validate_json(json.dumps(told["result"]))
    assert transcript.text == RESULTS["speech_recognition"]["text"]
    assert int(answer.headers["x-position"]) > told["position"]


async def test_a_wait_that_is_too_short_answers_with_the_job(any_edge: Bench) -> None:
    """It is the job as it is then; nothing is lost, and the same key finds it again."""
    edge = any_edge
    headers = {"Prefer": "wait=0", "Idempotency-Key": "one"}
    first = await ask(edge.alice, "llm/inference", json={"model": "m", "prompt": "x"}, headers=headers)
    headers["Prefer"] = "respond-async, wait=1"
    second = await ask(edge.alice, "llm/inference", json={"model": "m", "prompt": "x"}, headers=headers)

    assert first.json()["job_id"] == second.json()["job_id"]
    assert (second.json()["state"], second.headers["preference-applied"]) == ("QUEUED", "wait=1")
    assert "result" not in second.json()


async def test_a_job_that_fails_in_time_says_why(any_edge: Bench) -> None:
    """The answer is 201 (there is a job), and has the error instead of a result."""
    edge = any_edge
    await edge.register()
    asking = asyncio.create_task(
        edge.alice.post(
            "/v1/jobs",
            json={"service": "checksum", "payload": {"text": "x"}, "max_attempts": 1},
            headers={"Prefer": "wait=30"},
        )
    )
    offer = await edge.poll()
    session = (await edge.admin.get("/v1/miners/rig")).json()["session_id"]
    failed = await edge.rig.post(
        f"/v1/miners/{offer['job_id']}/fail",
        json={"attempt": 1, "session_id": session, "error_code": "BROKEN", "retryable": False},
    )
    assert failed.status_code == 200, failed.text
    answer = await asking

    assert (answer.status_code, answer.json()["state"]) == (201, "FAILED")
    assert answer.json()["error"]["code"] == "BROKEN"


async def test_a_large_result_comes_whole(any_edge: Bench) -> None:
    """Also one that is too large for a row, and is kept as a blob."""
    edge = any_edge
    await edge.register(capabilities=ABLE)
    result = {**RESULTS["speech_recognition"], "text": "word " * 30_000}
    asking = asyncio.create_task(
        ask(edge.alice, "whisper/transcribe", json={"audio_url": URL}, headers={"Prefer": "wait=30"})
    )
    await edge.complete(await edge.poll(), result)

    assert (await asking).json()["result"] == result


async def test_a_file_comes_with_the_form(any_edge: Bench) -> None:
    """A form may send the file itself: it is stored by its digest, is the client's, and the job names it."""
    edge = any_edge
    await edge.register(capabilities=ABLE)
    digest = hashlib.sha256(SOUND).hexdigest()
    form = {
        "model": "small",
        "best_of": "3",
        "fp16": "false",
        "temperature": "0.5",
        "suppress_tokens": ["-1", "7"],
        "constraints": '{"max_price": "1"}',
    }
    for name in ("audio_url", "file"):
        answer = await ask(edge.alice, "whisper/transcribe", data=form, files={name: ("a.wav", SOUND)})
        job = await job_of(edge, answer)
        assert job["constraints"]["max_price"] == "1"
        offer = await edge.poll()
        assert offer["payload"] == {
            "audio_url": f"blob:{digest}",
            "model": "small",
            "best_of": 3,
            "fp16": False,
            "temperature": 0.5,
            "suppress_tokens": [-1, 7],
        }
        fetched = await edge.rig.get(f"/v1/jobs/{offer['job_id']}/blobs/{digest}")
        assert fetched.content == SOUND
        await edge.complete(offer, RESULTS["speech_recognition"])
    assert (await edge.alice.head(f"/v1/blobs/{digest}")).status_code == 200
    assert (await edge.bob.head(f"/v1/blobs/{digest}")).status_code == 404


async def test_a_form_may_name_its_file(any_edge: Bench) -> None:
    """By URL, or by the digest of what was uploaded before; another client's digest is not found."""
    edge = any_edge
    digest = hashlib.sha256(SOUND).hexdigest()
    await edge.bob.put(f"/v1/blobs/{digest}", content=SOUND)
    for name, status in ((URL, 201), (f"blob:{digest}", 404)):
        parts = {"blend_file_url": (None, name), "samples": (None, "8")}
        answer = await ask(edge.alice, "blender/render", files=parts)
        assert answer.status_code == status, answer.text


@every(
    ("path", "body"),
    [
        ("whisper/transcribe", {}),
        ("whisper/transcribe", {"audio_url": URL, "model": "../huge"}),
        ("whisper/transcribe", {"audio_url": URL, "best_of": "5"}),
        ("whisper/transcribe", {"audio_url": URL, "beam_size": 11}),
        ("whisper/transcribe", {"audio_url": URL, "custom_arguments": "-x"}),
        ("whisper/translate", {"audio_url": URL, "task": "transcribe"}),
        ("whisper/transcribe", {"audio_url": "http://127.0.0.1/a.wav"}),
        ("whisper/transcribe", {"audio_url": "http://169.254.169.254/latest"}),
        ("whisper/transcribe", {"audio_url": "file:///etc/passwd"}),
        ("blender/render", {"blend_file_url": "http://2130706433/a.blend"}),
        ("blender/render", {"blend_file_url": URL, "frame_start": 2, "frame_end": 1}),
        ("blender/render", {"blend_file_url": URL, "resolution_x": True}),
        ("ffmpeg/transcode", {"input_url": "http://user@example.com/"}),
        ("ffmpeg/transcode", {"input_url": URL, "resolution": "641x480"}),
        ("ffmpeg/transcode", {"input_url": URL, "bitrate": "1M -vf x"}),
        ("ffmpeg/transcode", {"input_url": URL, "output_format": "webm", "codec": "h264"}),
        ("ffmpeg/transcode", {"input_url": URL, "codec": "h264_nvenc", "constraints": {"gpu": "radeon"}}),
        ("stable-diffusion/generate", {"prompt": ""}),
        ("stable-diffusion/generate", {"prompt": "x", "image_url": URL}),
        ("stable-diffusion/img2img", {"prompt": "x"}),
        ("stable-diffusion/generate", {"prompt": "x", "seed": [1, 2, 3, 4, 5]}),
        ("llm/inference", {"model": "m"}),
        ("llm/inference", {"model": "../m", "prompt": "x"}),
        ("llm/inference", {"model": "m", "prompt": "x" * 1_000_001}),
        (
            "llm/inference",
            {"model": "m", "prompt": "x", "constraints": {"models": [str(n) for n in range(32)]}},
        ),
        ("llm/inference", {"model": "m", "prompt": "x", "constraints": {"cuda": "new"}}),
        ("llm/inference", {"model": "m", "prompt": "x", "ttl_seconds": 0}),
    ],
)
async def test_what_a_service_does_not_take_is_refused(edge: Bench, path: str, body: dict[str, Any]) -> None:
    """Out of bounds, unknown, missing, unsafe: 422, a detail that names the field, and no value in it."""
    detail = refused(await ask(edge.alice, path, json=body))

    assert detail
    for value in ("127.0.0.1", "2130706433", "passwd", "radeon", "../m", "xxxx"):
        assert value not in detail


@every(
    ("kind", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=", b"--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 300, b"--b\r\n"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"nonsense"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nno name\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ncut',
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n\xff\r\n--b--\r\n',
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="model"; filename="f"\r\n\r\nx\r\n--b--\r\n',
        ),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"X: y\r\n" * 9 + b"\r\nx\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: " + b"y" * 9000 + b"\r\n\r\nx\r\n--b--\r\n"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="audio_url"; filename="f"\r\n\r\nx\r\n' * 2
            + b"--b--",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nbase\r\n' * 101 + b"--b--\r\n",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="suppress_tokens"\r\n\r\n[[[\r\n--b--\r\n',
        ),
    ],
)
async def test_a_form_that_is_none_is_refused(edge: Bench, kind: str, body: bytes) -> None:
    """Whatever is wrong with its parts, it is the sender's fault, and said to be."""
    refused(await ask(edge.alice, "whisper/transcribe", content=body, headers={"Content-Type": kind}))


async def test_a_form_too_large_is_cut_off(edge: Bench) -> None:
    """Texts beyond the limit of a body, and a file beyond the limit of a blob; nothing of it is kept."""
    long = {"initial_prompt": (None, "x" * 1_100_000), "audio_url": (None, URL)}
    refused(await ask(edge.alice, "whisper/transcribe", files=long), 413, "TOO_LARGE")

    small = edge.again(settings=edge.coordinator.settings.model_copy(update={"max_blob_bytes": 1000}))
    answer = await ask(small.alice, "whisper/transcribe", files={"file": ("a.wav", SOUND)})
    refused(answer, 413, "BLOB_TOO_LARGE")
    assert (await edge.alice.head(f"/v1/blobs/{hashlib.sha256(SOUND).hexdigest()}")).status_code == 404


async def test_services_are_for_clients(edge: Bench) -> None:
    """A miner's key, or none, asks for nothing."""
    refused(await ask(edge.rig, "llm/inference", json={"model": "m", "prompt": "x"}), 403, "FORBIDDEN")
    refused(await ask(edge.anyone, "llm/inference", json={}), 401, "UNAUTHORIZED_KEY")


@pytest.mark.parametrize("ends", ["well", "badly"])
async def test_a_text_is_watched_while_it_is_made(any_edge: Bench, ends: str) -> None:
    """One request: the job's states, its tokens, and at last what it gave, or why it gave nothing."""
    edge = any_edge
    await edge.register(capabilities=ABLE)
    result = {**RESULTS["llm_inference"], "text": "Once upon"}
    asked = {"model": "own/model", "prompt": "x"}
    got: list[dict[str, Any]] = []
    async with (
        serving(edge.app) as port,
        httpx.AsyncClient(headers={"X-Api-Key": key_of("alice")}, timeout=30) as http,
        http.stream("POST", f"http://127.0.0.1:{port}/v1/services/llm/stream", json=asked) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        offer = await edge.poll()
        assert offer["payload"] == {**asked, "stream": True}
        assert answer.headers["location"] == f"/v1/jobs/{offer['job_id']}"
        said = {"attempt": 1, "seq": 1, "text": "Once upon", "offset": 0}
        told = await edge.rig.post(f"/v1/miners/{offer['job_id']}/progress", json=said)
        assert told.status_code == 200
        async for _, message in read_events(answer.aiter_lines()):
            got.append(message)
            if message["type"] == "tokens":
                if ends == "well":
                    await edge.complete(offer, result)
                else:
                    await edge.alice.post(f"/v1/jobs/{offer['job_id']}/cancel", json={})
    last = got[-1]
    assert (last["type"], last["job_id"]) == ("result", offer["job_id"])
    assert [message["text"] for message in got if message["type"] == "tokens"] == ["Once upon"]
    if ends == "well":
        assert (last["state"], last["result"]) == ("COMPLETED", result)
    else:
        assert (last["state"], last["error"]["code"]) == ("CANCELED", "CANCELED")


async def test_a_stream_that_is_refused_is_a_problem(edge: Bench) -> None:
    """What can't become a job is answered as ever, before a stream begins."""
    refused(await ask(edge.alice, "llm/stream", json={"model": "m", "prompt": ""}))
    refused(await ask(edge.alice, "llm/stream", json={"model": "m", "prompt": "x", "stream": False}))
