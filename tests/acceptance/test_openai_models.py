"""A model that is listed can be asked for: names of all kinds, miners that go, services that are retired."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from tests.acceptance.cli_process import call
from tests.harness.bulky_server import BulkyEngine
from tests.harness.stage import ALICE, ROOT, Stage
from tests.harness.waiting import eventually_now

OFFERED = {
    "mistral:7b-instruct-v0.3": "mistral:7b-instruct-v0.3",
    "Org/Model.Name_1+x@v2": "org/model.name_1+x@v2",
    "a/b/c/d/e/f/g/h": "a/b/c/d/e/f/g/h",
    "/srv/models/llama-3.gguf": "llama-3.gguf",
    "C:\\models\\qwen.gguf": "qwen.gguf",
    "m" * 100: "m" * 100,
}
"""Names of an engine's models, and those that clients ask for."""
NOT_OFFERED = (
    "a model",
    "模型",
    "m" * 101,
    "m" * 200,
    "x//y",
    "a/b/c/d/e/f/g/h/i",
    "-dash",
    "what?",
    "a/../b",
)
LEAVING = "leaving"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BulkyEngine]:
    with BulkyEngine(tmp_path_factory.mktemp("names"), [*OFFERED, *NOT_OFFERED]) as made:
        yield made


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, engine: BulkyEngine) -> Iterator[Stage]:
    """An embedded coordinator, and two miners with different models."""
    folder = tmp_path_factory.mktemp("models")
    with BulkyEngine(folder, [LEAVING]) as second, Stage(folder, heartbeat_timeout_seconds=3) as made:
        made.coordinator()
        eventually_now(lambda: made.health()["ready"], "ready", 90)
        made.program_miner("rig1", transport="http", llm_engine_url=engine.url, rerank_engine_url=engine.url)
        made.program_miner("rig2", transport="http", llm_engine_url=second.url)
        eventually_now(lambda: {LEAVING, "llama-3.gguf"} <= listed(made), "both miners", 90)
        yield made


def client(stage: Stage) -> OpenAI:
    return OpenAI(base_url=f"{stage.urls['main']}/v1", api_key=ALICE, max_retries=0)


def listed(stage: Stage) -> set[str]:
    with client(stage) as openai_client:
        return {model.id for model in openai_client.models.list()}


def say(openai_client: OpenAI, model: str) -> str | None:
    completion = openai_client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "x"}], max_completion_tokens=2
    )
    return completion.choices[0].message.content


def test_every_listed_model_answers(stage: Stage) -> None:
    """All names in the list, and no others, can be shown and asked for, in any letter case."""
    assert {*OFFERED.values(), LEAVING} == listed(stage)
    with client(stage) as openai_client:
        for model in listed(stage):
            assert model == openai_client.models.retrieve(model).id
            assert " w0.0 w1.0" == say(openai_client, model) == say(openai_client, model.upper())


@pytest.mark.parametrize("model", [*NOT_OFFERED, "/srv/models/llama-3.gguf"])
def test_other_names_are_not_found(stage: Stage, model: str) -> None:
    """Whatever is asked for, the answer is that there is no such model, with those that there are."""
    with client(stage) as openai_client:
        if "?" not in model and ".." not in model:  # of a URL, the client itself takes these
            with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
                openai_client.models.retrieve(model)
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)) as refused:
            say(openai_client, model)
    assert "model" == refused.value.param
    assert refused.value.code in ("model_not_found", "invalid_value")


def test_the_doctor_names_what_is_not_offered(stage: Stage, engine: BulkyEngine) -> None:
    """The miner's owner reads which models nobody can ask for, which have another name, and what to do."""
    text = call(stage.folder, "doctor", "--json", llm_engine_url=engine.url).out
    assert "'/srv/models/llama-3.gguf' is offered as llama-3.gguf" in text
    assert "give it one with LLM_ENGINE_MODELS" in text
    for name in ("a model", "m" * 200, "x//y", "-dash"):
        assert f"'{name}' is not offered" in text


def test_a_miner_that_is_gone(stage: Stage) -> None:
    """Its models leave the list with its heartbeats; a request then says that no live miner has the model."""
    rig2 = next(process for process in stage.processes if process.name.startswith("rig2"))
    rig2.kill()
    eventually_now(lambda: LEAVING not in listed(stage), "the list without the lost miner", 30)
    with client(stage) as openai_client:
        with pytest.raises(openai.NotFoundError, match="no live miner offers the model `leaving`") as refused:
            say(openai_client, LEAVING)
        assert "llama-3.gguf" in str(refused.value)
        assert " w0.0 w1.0" == say(openai_client, "llama-3.gguf")


def test_a_retired_service(stage: Stage) -> None:
    """Models that only a retired service has leave the list; asking for one says that it is retired."""

    async def change(*, retire: bool) -> None:
        async with stage.client(ROOT) as admin:
            if retire:
                await admin.registry.retire("llm_inference")
            else:
                entry = (await admin.registry.show("llm_inference")).document()
                added = ("version", "retired")
                await admin.registry.revise({name: v for name, v in entry.items() if name not in added})

    with client(stage) as openai_client:
        asyncio.run(change(retire=True))
        eventually_now(lambda: "retired" in refusal(openai_client), "the retired service", 30)
        # Its engine scores documents, too: the model is still there for that.
        assert "llama-3.gguf" in listed(stage)
        asyncio.run(change(retire=False))
        eventually_now(lambda: not refusal(openai_client), "the service's return", 30)


def refusal(openai_client: OpenAI) -> str:
    """Why a chat is refused; empty if it is not."""
    try:
        say(openai_client, "llama-3.gguf")
    except openai.NotFoundError as error:
        return str(error)
    return ""
