"""The catalogue: its entries are valid and complete, and its schemas let nothing in that they should not."""

import copy
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

import jsonschema_rs
import pytest

from coordinator.application.commands.handlers.jobs.bodies import MAX_BLOBS
from coordinator.application.commands.parsing import parse_command, parse_json
from coordinator.application.payloads.schemas import compile_schema
from coordinator.domain.matching.needs import Capabilities, Constraints, Gpu, satisfies
from coordinator.domain.service import CATEGORIES, ServiceRegister, ServiceSpec
from coordinator.services import catalog
from coordinator.services.catalog import load_catalog
from coordinator.services.speech_recognition.languages import ACCEPTED
from tests.harness.cases import every

ENTRIES = {entry["id"]: entry for entry in load_catalog()}
SIDES = ["input_schema", "output_schema"]
VALIDATORS = {name: compile_schema(entry["input_schema"]) for name, entry in ENTRIES.items()}
REF = "blob:" + "0123456789abcdef" * 4


SERVICES = {
    "ai_ml": "llm_inference image_generation video_generation speech_recognition computer_vision "
    "recommendation_system text_embedding reranking text_to_speech",
    "media_processing": "video_transcoding video_streaming 3d_rendering image_processing audio_processing",
    "scientific_computing": "molecular_dynamics weather_modeling financial_modeling physics_simulation "
    "bioinformatics",
    "data_analytics": "big_data_processing real_time_analytics graph_analytics time_series_analysis",
    "gaming_entertainment": "cloud_gaming game_asset_baking game_physics vr_ar_rendering",
    "development_tools": "gpu_compilation model_training data_processing simulation_testing code_generation "
    "checksum",
}
ALIASES = {
    "llm": "llm_inference",
    "stable_diffusion": "image_generation",
    "whisper": "speech_recognition",
    "rerank": "reranking",
    "tts": "text_to_speech",
    "ffmpeg": "video_transcoding",
    "blender": "3d_rendering",
}

# What the typed services promise: (least, most, default), or (choices, default); None where there is none.
SD_SIZES = [
    "512x512",
    "512x768",
    "768x512",
    "768x768",
    "768x1024",
    "1024x768",
    "1024x1024",
    "1024x1536",
    "1536x1024",
]
TYPED: dict[str, dict[str, tuple[Any, ...]]] = {
    "speech_recognition": {
        "language": (list(ACCEPTED), "auto"),
        "task": (["transcribe", "translate"], "transcribe"),
        "temperature": (0, 1, 0),
        "best_of": (1, 10, 5),
        "beam_size": (1, 10, 5),
        "patience": (0, 2, 1),
        "condition_on_previous_text": (None, True),
        "fp16": (None, True),
        "word_timestamps": (None, False),
    },
    "image_generation": {
        "prompt": (1, 1000, None),
        "negative_prompt": (None, 1000, None),
        "model": (
            [
                "stable-diffusion-1.5",
                "stable-diffusion-2.1",
                "stable-diffusion-xl",
                "sdxl-turbo",
                "sdxl-refiner",
            ],
            "stable-diffusion-1.5",
        ),
        "size": (SD_SIZES, "512x512"),
        "num_images": (1, 4, 1),
        "num_inference_steps": (1, 100, 20),
        "guidance_scale": (1, 20, 7.5),
        "enable_safety_checker": (None, True),
        "lora_scale": (0, 2, 1),
    },
    "llm_inference": {
        "prompt": (1, 1_000_000, None),
        "max_tokens": (1, 1_000_000, 256),
        "temperature": (0, 2, 0.7),
        "top_p": (0, 1, 0.9),
        "top_k": (0, 100, 40),
        "repetition_penalty": (0, 2, 1.1),
        "stream": (None, False),
    },
    "3d_rendering": {
        "engine": (["cycles", "eevee", "eevee-next"], "cycles"),
        "format": (["png", "jpg", "exr", "bmp", "tiff"], "png"),
        "resolution_x": (1, 65_536, 1920),
        "resolution_y": (1, 65_536, 1080),
        "resolution_percentage": (1, 100, 100),
        "samples": (1, 10_000, 128),
        "denoise": (None, True),
        "transparent": (None, False),
    },
}
OTHER_FIELDS = {
    "speech_recognition": {"audio_url", "model", "suppress_tokens", "initial_prompt"},
    "image_generation": {"seed", "scheduler", "lora", "image_url", "strength"},
    "llm_inference": {
        "model",
        "messages",
        "stop_sequences",
        "frequency_penalty",
        "presence_penalty",
        "seed",
        *("n", "logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls"),
        *("response_format", "reasoning_effort", "chat_template_kwargs", "deltas"),
    },
    "3d_rendering": {"blend_file_url", "frame_start", "frame_end", "frame_step"},
}
REQUIRED = {
    "speech_recognition": ["audio_url"],
    "image_generation": ["prompt"],
    "llm_inference": ["model"],
    "3d_rendering": ["blend_file_url"],
}
# GB of GPU memory that each model needs.
VRAM = {
    "speech_recognition": [1, 1, 1, 1, 2, 2, 5, 5, 10, 10, 10, 10, 6, 6, 2, 4, 6, 6, 6],
    "image_generation": [4, 4, 8, 8, 8],
    "llm_inference": [8, 16, 64, 8, 48, 8, 16, 32],
}

ONE_CARD = {"consumer": ("NVIDIA GeForce RTX 4070", 12_282), "data_centre": ("NVIDIA A100-SXM4-80GB", 81_920)}
NO_FILES = [
    "/etc/passwd",
    "../../secret",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "http://localhost:8011/v1/admin/stats",
    "https://user:password@example.com/clip.mp4",
    "https://example.com/clip.mp4\n",
    "HTTPS://EXAMPLE.COM/clip.mp4",
    f"{REF}\n",
    f"{REF}0",
    f" {REF}",
    REF.upper(),
    "blob:",
]


def rig(card: str, service: str) -> Capabilities:
    """A miner with one ordinary card."""
    name, memory_mb = ONE_CARD[card]
    return Capabilities(services=(service,), gpus=(Gpu(name=name, memory_mb=memory_mb),), cuda="12.4")


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and those inside it that describe values: not conditions (`if`, `oneOf`, …)."""
    if not isinstance(schema, dict):
        return  # true or false
    yield schema
    inside = [
        *schema.get("properties", {}).values(),
        *schema.get("$defs", {}).values(),
        *schema.get("allOf", ()),
    ]
    inside += [
        schema[key]
        for key in ("items", "propertyNames", "additionalProperties", "then", "else")
        if key in schema
    ]
    for part in inside:
        yield from subschemas(part)


def formatted(value: Any, indent: int = 0, taken: int = 0) -> str:
    """How the files are written: a value is on one line wherever that fits, else each part on its own."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or indent + taken + len(line) < 110:
        return line
    inner = indent + 2
    if isinstance(value, dict):
        keys = {key: json.dumps(key) + ": " for key in value}
        parts = [keys[key] + formatted(item, inner, len(keys[key])) for key, item in value.items()]
    else:
        parts = [formatted(item, inner) for item in value]
    left, right = "{}" if isinstance(value, dict) else "[]"
    margin = "\n" + " " * inner
    return left + margin + ("," + margin).join(parts) + "\n" + " " * indent + right


def hostile(payload: Any) -> Iterator[Any]:
    """Copies of a payload, each with one thing in it that no service may accept."""
    for path, value in places(payload):
        if isinstance(value, dict):
            wrong: list[Any] = [{**value, "custom_args": ["-f", "x"]}, [], "text"]
        elif isinstance(value, list):
            wrong = [value[:1] * 20_000, {}] if value else [{}]
        elif isinstance(value, str):
            wrong = [value + "x" * 1_000_000, {}, [[]]]
            wrong += NO_FILES if value.startswith("blob:") else []
        elif isinstance(value, bool) or value is None:
            wrong = [{}, [[]]]
        else:
            wrong = [1e300, -1e300, {}, [[]]]
        for item in wrong:
            yield replaced(payload, path, item)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value inside this one, itself included, and the way to it."""
    yield path, value
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


def replaced(payload: Any, path: tuple[Any, ...], item: Any) -> Any:
    if not path:
        return item
    result = copy.deepcopy(payload)
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = item
    return result


def test_every_service_is_there() -> None:
    """Each category has its services, and the short names that people know lead to theirs."""
    expected = {category: set(names.split()) for category, names in SERVICES.items()}

    assert set(expected) == set(CATEGORIES)
    assert expected == {
        category: {name for name, entry in ENTRIES.items() if entry["category"] == category}
        for category in CATEGORIES
    }
    assert len(ENTRIES) >= 31
    assert ALIASES == {alias: name for name, entry in ENTRIES.items() for alias in entry["aliases"]}


def test_no_name_is_given_twice() -> None:
    """Ids and aliases are one set of names: nothing can mean two services."""
    names = [name for entry in ENTRIES.values() for name in (entry["id"], *entry["aliases"])]
    titles = [entry["name"] for entry in ENTRIES.values()]

    assert sorted(set(names)) == sorted(names)
    assert sorted(set(titles)) == sorted(titles)


@every("service", sorted(ENTRIES))
def test_every_entry_is_a_registry_entry(service: str) -> None:
    """The registry takes each entry as it is, also from an admin over the wire, and says something of it."""
    entry = ENTRIES[service]
    spec = ServiceSpec.model_validate(entry)
    command = parse_command("service.register", parse_json(json.dumps({"spec": entry}).encode()))

    assert command == ServiceRegister(spec=spec)
    # Whether work is private is for operators to say: no entry of ours is.
    assert [name for name in ServiceSpec.model_fields if name != "private"] == list(entry)
    assert spec.description.endswith(".")
    assert spec.tags
    assert spec.capabilities


@every("service", sorted(ENTRIES))
def test_work_is_not_free(service: str) -> None:
    """Work is paid by time, so an entry is priced by time: by anything else, miners without a price of
    their own would get nothing."""
    assert float(ServiceSpec.model_validate(ENTRIES[service]).list_price()) > 0


@every("service", sorted(ENTRIES))
def test_ordinary_miners_meet_the_requirements(service: str) -> None:
    """A gaming PC can do the least of each service, a data centre's card what is recommended, and whoever
    has what is recommended has the least, too."""
    needs = ServiceSpec.model_validate(ENTRIES[service]).requirements

    assert satisfies(service, needs.minimum, rig("consumer", service))
    assert satisfies(service, needs.recommended, rig("data_centre", service))
    assert (needs.minimum.min_vram_gb or 0) <= (needs.recommended.min_vram_gb or 0)
    assert needs.minimum.gpu in (None, "any", needs.recommended.gpu)
    for constraints in (needs.minimum, needs.recommended):
        assert constraints == Constraints(
            gpu=constraints.gpu, cuda=constraints.cuda, min_vram_gb=constraints.min_vram_gb
        )


@every("service", sorted(ENTRIES))
@every("side", SIDES)
def test_every_schema_is_json_schema_2020_12(service: str, side: str) -> None:
    """Schemas name their dialect, satisfy its own schema, and refer to nothing outside themselves."""
    schema = ENTRIES[service][side]

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert jsonschema_rs.meta.is_valid(schema)
    for part in subschemas(schema):
        assert part.get("format", "uri") == "uri", "other formats are not checked: say it with a pattern"
        assert part.get("$ref", "") in {"", *(f"#/$defs/{name}" for name in schema.get("$defs", {}))}


@every("service", sorted(ENTRIES))
@pytest.mark.parametrize("side", SIDES)
def test_examples_and_defaults_fit(service: str, side: str) -> None:
    """Each schema has examples, and they are valid; so is every default."""
    schema = ENTRIES[service][side]
    definitions = schema.get("$defs", {})

    assert schema["examples"]
    for part in subschemas(schema):
        for value in [*part.get("examples", []), *([part["default"]] if "default" in part else [])]:
            jsonschema_rs.validate({"$defs": definitions, **part}, value)


@every("service", sorted(ENTRIES))
def test_hostile_payloads_are_refused(service: str) -> None:
    """Unknown fields, wrong types, endless texts and lists, numbers out of bounds, files by path or address:
    none of them gets in, wherever in the payload it is."""
    validator = VALIDATORS[service]
    accepted = [
        payload
        for example in ENTRIES[service]["input_schema"]["examples"]
        for payload in hostile(example)
        if validator.is_valid(payload)
    ]

    assert [] == [repr(payload)[:200] for payload in accepted]


@every("service", sorted(ENTRIES))
def test_every_input_file_may_be_a_url(service: str) -> None:
    """What takes an uploaded file takes a URL of the public internet in its place."""
    for example in ENTRIES[service]["input_schema"]["examples"]:
        for path, value in places(example):
            if isinstance(value, str) and value.startswith("blob:"):
                assert VALIDATORS[service].is_valid(replaced(example, path, "https://example.com/a?b=c%20d"))


@pytest.mark.parametrize("service", sorted(ENTRIES))
def test_inputs_are_bounded(service: str) -> None:
    """Every text, list and number that a client sends has a most, and every object says what is in it."""
    for part in subschemas(ENTRIES[service]["input_schema"]):
        kinds = part.get("type", [])
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        pattern = part.get("pattern", "")
        if "string" in kinds and ({"*", "+"} & set(pattern) or not pattern):
            assert "maxLength" in part
        assert not pattern or (pattern[0], pattern[-1]) == ("^", "$")
        assert "array" not in kinds or {"maxItems", "items"} <= set(part)
        if "object" in kinds and "properties" not in part:
            assert {"patternProperties", "maxProperties"} <= set(part)
            assert part["additionalProperties"] is False
        if kinds & {"number", "integer"}:
            assert part.keys() & {"minimum", "exclusiveMinimum"}
            assert part.keys() & {"maximum", "exclusiveMaximum"}


@pytest.mark.parametrize("service", sorted(ENTRIES))
def test_results_name_no_more_files_than_may_be(service: str) -> None:
    """A result that its schema allows is not refused for the number of its files."""
    schema = ENTRIES[service]["output_schema"]
    for part in subschemas(schema):
        items = part.get("items")
        if isinstance(items, dict):
            target = items.get("$ref", "").rpartition("/")[2]
            items = schema.get("$defs", {}).get(target, items)
            if "blob" in items.get("properties", {}):
                assert part["maxItems"] <= MAX_BLOBS


@pytest.mark.parametrize("service", sorted(TYPED))
def test_typed_services_have_their_fields(service: str) -> None:
    """The typed services have exactly the fields, bounds and defaults that their endpoints promise."""
    schema = ENTRIES[service]["input_schema"]
    fields = schema["properties"]
    found: dict[str, tuple[Any, ...]] = {}
    for name, expected in TYPED[service].items():
        field = fields[name]
        if len(expected) == 2:
            found[name] = (field.get("enum"), field.get("default"))
        elif "string" in field["type"]:
            found[name] = (field.get("minLength"), field["maxLength"], field.get("default"))
        else:
            found[name] = (field["minimum"], field["maximum"], field.get("default"))

    assert TYPED[service] == found
    assert set(TYPED[service]) | OTHER_FIELDS[service] == set(fields)
    assert REQUIRED[service] == schema["required"]


def test_ffmpeg_has_its_bounds() -> None:
    """The bounds and defaults of the typed service ffmpeg; crf is 23 only where there is no bit rate."""
    parts = ENTRIES["video_transcoding"]["input_schema"]["$defs"]
    transcode = parts["Transcode"]["properties"]

    for kind in (transcode, parts["TranscodeWebm"]["properties"]):
        assert (0, 51) == (kind["crf"]["minimum"], kind["crf"]["maximum"])
        assert (1, 120) == (kind["fps"]["minimum"], kind["fps"]["maximum"])
        assert ("medium", "128k") == (kind["preset"]["default"], kind["audio_bitrate"]["default"])
    assert ["mp4", "h264", "aac"] == [
        transcode[name]["default"] for name in ("output_format", "codec", "audio_codec")
    ]


@pytest.mark.parametrize("service", sorted(VRAM))
def test_the_memory_of_each_model_is_said(service: str) -> None:
    """`x-min-vram-gb` says for each model how much GPU memory it needs, and the least is the entry's own."""
    model = ENTRIES[service]["input_schema"]["properties"]["model"]
    names = model.get("enum", model.get("examples"))

    assert dict(zip(names, VRAM[service], strict=True)) == model["x-min-vram-gb"]
    assert min(VRAM[service]) == ENTRIES[service]["requirements"]["minimum"]["min_vram_gb"]


@every("category", CATEGORIES)
def test_files_are_formatted(category: str) -> None:
    """One way to write a file, so that a change shows as what it is: entries by id, see `formatted`."""
    text = resources.files(catalog).joinpath(f"{category}.json").read_text(encoding="utf-8")
    entries = json.loads(text)

    assert sorted(entries, key=lambda entry: entry["id"]) == entries
    assert formatted(entries) + "\n" == text


def test_the_catalogue_is_a_copy() -> None:
    """What one caller changes, the next one does not see."""
    load_catalog()[0]["id"] = "changed"

    assert sorted(ENTRIES) == [entry["id"] for entry in load_catalog()]


@every(
    ("service", "payload", "accepted"),
    [
        ("llm_inference", {"model": "llama3:8b", "prompt": "x"}, True),
        ("llm_inference", {"model": "org/model-7b", "prompt": "x" * 1_000_000}, True),
        ("llm_inference", {"model": "hub/org/models/model-7b", "prompt": "x"}, True),
        ("llm_inference", {"model": "/models/model-7b.gguf", "prompt": "x"}, False),
        ("llm_inference", {"model": "org/../model", "prompt": "x"}, False),
        ("llm_inference", {"model": "-m", "prompt": "x"}, False),
        ("llm_inference", {"model": "mistral-7b", "prompt": "x" * 1_000_001}, False),
        ("llm_inference", {"model": "mistral-7b", "prompt": ""}, False),
        ("llm_inference", {"prompt": "x"}, False),
        ("image_generation", {"prompt": "x", "seed": [1, 2, 3, 4], "scheduler": None}, True),
        ("image_generation", {"prompt": "x", "seed": [1, 2, 3, 4, 5]}, False),
        ("image_generation", {"prompt": "x", "seed": -1}, False),
        ("image_generation", {"prompt": "x", "size": "4096x4096"}, False),
        ("image_generation", {"prompt": "x", "strength": 0.5}, False),
        ("speech_recognition", {"audio_url": REF, "language": "xx"}, False),
        ("speech_recognition", {"audio_url": REF, "language": "nl", "model": "large-v3-turbo"}, True),
        ("speech_recognition", {"audio_url": REF, "language": "haitian creole"}, True),
        ("speech_recognition", {"audio_url": REF, "patience": 2.1}, False),
        ("3d_rendering", {"blend_file_url": REF, "frame_start": None, "frame_end": 250}, True),
        ("3d_rendering", {"blend_file_url": REF, "python": "import os"}, False),
        ("text_embedding", {"texts": ["x"], "input_url": REF}, False),
        ("text_embedding", {}, False),
        ("reranking", {"query": "x", "documents": ["a"], "top_n": 1000}, True),
        ("reranking", {"query": "x", "documents": []}, False),
        ("reranking", {"query": "x", "documents": ["a", ""]}, False),
        ("reranking", {"query": "x", "documents": [{"text": "a"}]}, False),
        ("reranking", {"query": "", "documents": ["a"]}, False),
        ("reranking", {"query": "x", "documents": ["a"], "top_n": 0}, False),
        ("text_to_speech", {"text": "x", "voice": "中文女", "speed": 0.25}, True),
        ("text_to_speech", {"text": "x"}, False),
        ("text_to_speech", {"text": "x", "voice": "a\nb"}, False),
        ("text_to_speech", {"text": "x", "voice": "a\n"}, False),
        ("text_to_speech", {"text": "x", "voice": "a", "format": "ogg"}, False),
        ("text_to_speech", {"text": "x", "voice": "a", "speed": 4.5}, False),
        ("financial_modeling", {"task": "portfolio_risk"}, False),
        ("financial_modeling", {"task": "fortune_telling"}, False),
        ("big_data_processing", {"inputs": [REF], "filters": [{"column": "a", "operator": "is_null"}]}, True),
        ("big_data_processing", {"inputs": [REF], "filters": [{"column": "a", "operator": "eq"}]}, False),
        ("big_data_processing", {"inputs": [REF], "columns": ["a; DROP TABLE b"]}, False),
        ("weather_modeling", {"area": {}, "start": "2026-05-01T06:00:00Z"}, False),
        ("graph_analytics", {"edges_url": REF, "algorithm": "shortest_paths"}, False),
        ("vr_ar_rendering", {"scene_url": REF, "output_format": "mp4", "transparent": True}, False),
        ("code_generation", {"task": "review", "instruction": "be kind"}, False),
        ("code_generation", {"task": "edit", "code": "x"}, False),
        ("physics_simulation", {"physics": "fluid_flow", "mesh_url": REF, "material": {}}, False),
    ],
)
def test_payloads_are_decided_by_the_schema(service: str, payload: Any, accepted: bool) -> None:
    """What a reader of the descriptions expects, where fields depend on each other or have an edge."""
    assert accepted == VALIDATORS[service].is_valid(payload)
