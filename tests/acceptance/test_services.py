"""Every service that a miner runs, as a whole job: client, coordinator, miner process, and the engine.

The language model and the embeddings are llama.cpp's, images and tables are really processed, ffmpeg decodes;
speech and image generation end at a stand-in (see `tests/harness/stand_in.py`).
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from PIL import Image

from coordinator.client import NoResult, RequestRefused
from coordinator.dev.servers import PostgresServer, RabbitMQServer
from tests.harness.llama_engine import MODEL, LlamaEngine
from tests.harness.stage import Stage
from tests.harness.stand_in import StandIn
from tests.harness.waiting import eventually, eventually_now
from tests.integration.test_executor_audio import tone
from tests.integration.test_executor_images import picture

XL, BASE = "stabilityai/stable-diffusion-xl-base-1.0", "Systran/faster-whisper-base"


@pytest.fixture(scope="module")
def stand_in() -> Iterator[StandIn]:
    """The stand-in, beside the tests' own event loops."""
    made, ended = StandIn(XL, BASE), threading.Event()

    async def serve() -> None:
        async with made.serving():
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    eventually_now(lambda: made.url and httpx.get(f"{made.url}/v1/models").is_success, "the stand-in")
    yield made
    ended.set()
    thread.join()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, llama: LlamaEngine, stand_in: StandIn) -> Iterator[Stage]:
    """An embedded coordinator and one miner that is told of every engine."""
    engines: dict[str, Any] = {
        "llm_engine_url": llama.url,
        "embedding_engine_url": llama.url,
        "speech_engine_url": stand_in.url,
        "image_engine_url": stand_in.url,
    }
    with Stage(tmp_path_factory.mktemp("services")) as stage:
        stage.coordinator()
        eventually_now(lambda: stage.health()["ready"], "the coordinator")
        stage.program_miner("rig1", transport="http", **engines)
        asyncio.run(stage.registered("rig1"))
        yield stage


async def result_of(
    stage: Stage, service: str, payload: dict[str, Any], file: tuple[str, bytes] | None = None, **more: Any
) -> tuple[dict[str, Any], list[bytes]]:
    """A job's result and the content of its files, after its receipt; `file` is (field, content)."""
    folder = stage.folder / "client"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    async with stage.client() as client:
        if file is not None:
            field, content = file
            (folder / "input").write_bytes(content)
            ref = (await client.upload(folder / "input")).ref
            payload = {**payload, field: [ref] if field in ("images", "inputs") else ref}
        job = await client.submit(service, payload, **more)
        done = await job.result(timeout=120)
        assert (await job.receipt()).job_id == job.job_id
        contents = []
        for made in done.files():
            await job.download(made.sha256, folder / "out")
            contents.append((folder / "out").read_bytes())
        return dict(done.result), contents


async def test_a_chat_with_the_model_that_the_engine_has(stage: Stage) -> None:
    """The job names a model, the miner has it because its engine does, and the engine's words come back."""
    payload = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "kil"}],
        "max_tokens": 9,
        "temperature": 0,
    }
    result, _ = await result_of(stage, "llm_inference", payload, constraints={"models": [MODEL]})
    assert ("length", 9, MODEL) == (result["finish_reason"], result["completion_tokens"], result["model"])
    assert result["text"].strip()


async def test_an_embedding(stage: Stage) -> None:
    """Texts become vectors of the engine's model."""
    result, _ = await result_of(stage, "text_embedding", {"model": MODEL, "texts": ["cheap gpu", "cat"]})
    assert (2, 64) == (result["count"], len(result["embeddings"][1]))


async def test_speech(stage: Stage) -> None:
    """A recording goes to the engine as sound (the answer is the stand-in's)."""
    result, _ = await result_of(stage, "speech_recognition", {}, ("audio_url", tone(0.5)))
    assert ("Hello.", 0.5) == (result["text"], result["duration_seconds"])


async def test_image_generation(stage: Stage) -> None:
    """The engine's image is the client's file (it is the stand-in's)."""
    payload = {"prompt": "night", "model": "stable-diffusion-xl", "seed": 3}
    result, [content] = await result_of(stage, "image_generation", payload)
    assert (512, 3) == (result["images"][0]["width"], result["images"][0]["seed"])
    assert (512, 512) == Image.open(BytesIO(content)).size


async def test_image_processing(stage: Stage) -> None:
    """A picture is made smaller."""
    payload = {"operations": [{"operation": "resize", "width": 30, "height": 30}], "output_format": "webp"}
    result, [content] = await result_of(stage, "image_processing", payload, ("images", picture()))
    assert [[30, 20]] == result["sizes"]
    assert ("WEBP", (30, 20)) == ((image := Image.open(BytesIO(content))).format, image.size)


async def test_audio_processing(stage: Stage) -> None:
    """A recording is cut and encoded."""
    payload = {"operations": [{"operation": "trim", "end_seconds": 1}], "output_format": "flac"}
    result, [content] = await result_of(stage, "audio_processing", payload, ("input_url", tone(2)))
    assert 1 == pytest.approx(result["duration_seconds"], abs=0.01)
    assert content.startswith(b"fLaC")


@pytest.mark.parametrize(
    ("service", "field"),
    [
        ("audio_processing", "input_url"),
        ("video_transcoding", "input_url"),
        ("speech_recognition", "audio_url"),
    ],
)
async def test_half_a_recording_is_no_work(stage: Stage, service: str, field: str) -> None:
    """A file that is cut fails its job for good, with both lengths; it has no receipt, and so no pay."""
    payload = {"output_format": "mp3"} if field == "input_url" else {}
    whole = tone(2)
    with pytest.raises(NoResult) as failed:
        await result_of(stage, service, payload, (field, whole[: len(whole) // 2]))
    error = failed.value.job.error
    assert error is not None
    assert ("FAILED", "INVALID_PAYLOAD") == (failed.value.job.state, error.code)
    assert "the source ends after 1.00 s of the 2.00 s that its header promises" in error.message
    async with stage.client() as client:
        with pytest.raises(RequestRefused) as refused:
            await client.job(failed.value.job.job_id).receipt()
    assert ("CONFLICT_STATE", 409) == (refused.value.code, refused.value.status)


async def test_data_processing(stage: Stage) -> None:
    """A table loses its duplicates."""
    payload = {"steps": [{"step": "drop_duplicates"}], "types": {"b": "integer"}}
    result, [content] = await result_of(
        stage, "data_processing", payload, ("inputs", b"a;b\n01;2\n01;2\nNA;4\n")
    )
    assert (3, 2) == (result["rows_read"], result["rows_written"])
    assert {"a": ["01", "NA"], "b": [2, 4]} == pl.read_parquet(BytesIO(content)).to_dict(as_series=False)


@pytest.mark.skipif(shutil.which("blender") is None, reason="blender is not on PATH")
async def test_rendering(stage: Stage, tmp_path: Path) -> None:
    """A scene is rendered, where Blender is installed."""
    file = tmp_path / "scene.blend"
    save = f"import bpy; bpy.ops.wm.save_as_mainfile(filepath={str(file)!r})"
    process = await asyncio.create_subprocess_exec(
        *("blender", "--background", "--factory-startup", "--python-expr", save),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    payload = {"resolution_x": 32, "resolution_y": 16, "samples": 1, "denoise": False, "frame_start": 1}
    result, [content] = await result_of(stage, "3d_rendering", payload, ("blend_file_url", file.read_bytes()))
    assert (1, (32, 16)) == (result["frames"], Image.open(BytesIO(content)).size)


async def test_an_engine_that_dies_costs_no_job(
    tmp_path: Path, rabbitmq: RabbitMQServer, postgres: PostgresServer
) -> None:
    """On RabbitMQ and Postgres: the job goes back when its engine dies, and is done when that is back."""
    amqp_url, database_url = rabbitmq.new_vhost(), postgres.new_database()
    engine = LlamaEngine(tmp_path)
    with Stage(tmp_path / "stage", amqp_url=amqp_url, database_url=database_url) as stage:
        try:
            await asyncio.to_thread(engine.start)
            stage.coordinator()
            await stage.ready()
            stage.program_miner("rig1", transport="amqp", recheck_seconds=1, llm_engine_url=engine.url)
            await stage.registered("rig1")
            async with stage.client() as client:
                payload = {"model": MODEL, "prompt": "kil", "max_tokens": 2000, "temperature": 0}
                job = await client.submit(
                    "llm_inference", payload, constraints={"models": [MODEL]}, max_attempts=1
                )
                await eventually(lambda: engine.busy() == 1, "the engine at work")
                await asyncio.to_thread(engine.kill)
                await eventually(lambda: stage.log.topics(job.job_id)[-1] == "job.requeued", "the job back")

                def offers() -> list[list[str]]:
                    return [
                        e.data["capabilities"]["services"] for e in stage.log.entries("miner.registered.v1")
                    ]

                await eventually(lambda: "llm_inference" not in offers()[-1], "the service withdrawn")
                assert "checksum" in offers()[-1]
                await asyncio.to_thread(engine.start)
                assert 2000 == (await job.result(timeout=150)).result["completion_tokens"]
            assert (len(offers()), "llm_inference" in offers()[-1]) == (3, True)
            stage.accepted.add(job.job_id)
            await stage.check()
        finally:
            engine.kill()
    rabbitmq.drop_vhost(amqp_url)
    postgres.drop_database(database_url)
