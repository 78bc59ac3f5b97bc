"""Matching: what satisfies what, with the names that drivers really print; classes and profiles."""

import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from coordinator.domain.matching.gpus import MAX_LABEL, Gpu, matches
from coordinator.domain.matching.needs import (
    Capabilities,
    Constraints,
    normalise_capabilities,
    normalise_constraints,
    profile_of,
    satisfies,
    tightness,
    unmet,
    wanted,
)
from tests.harness.cases import every
from tests.harness.length import examples

# --- names of cards ----------------------------------------------------------------------------------------
NVIDIA = [  # as nvidia-smi prints them
    "NVIDIA GeForce RTX 4090",
    "NVIDIA GeForce RTX 4070 Ti SUPER",
    "NVIDIA GeForce RTX 3080 Laptop GPU",
    "GeForce GTX 1660 SUPER",
    "GeForce RTX 2080 with Max-Q Design",
    "NVIDIA RTX A6000",
    "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
    "NVIDIA TITAN RTX",
    "Quadro P4000",
    "Quadro K2200",
    "Tesla T4",
    "Tesla V100-SXM2-16GB",
    "Tesla K80",
    "GRID T4-16Q",
    "NVIDIA A100-SXM4-40GB",
    "NVIDIA A100 80GB PCIe",
    "NVIDIA A10G",
    "NVIDIA L4",
    "NVIDIA L40S",
    "NVIDIA H100 80GB HBM3",
    "NVIDIA H200",
    "NVIDIA GH200 480GB",
    "NVIDIA B200",
    "A100-SXM4-40GB",
    "Orin (nvgpu)",
]
AMD = [  # as rocm-smi, amdgpu and the Windows driver print them
    "AMD Radeon RX 7900 XTX",
    "Radeon RX 7900 XT",
    "AMD Radeon(TM) RX 6700 XT",
    "AMD Radeon RX 7900 GRE",
    "AMD Radeon PRO W7900",
    "Radeon Pro V520",
    "AMD Instinct MI300X OAM",
    "AMD INSTINCT MI250 (MCM) OAM AC MBA",
    "Advanced Micro Devices, Inc. [AMD/ATI] Navi 31",
    "AMD FirePro S9150",
]
INTEL = [
    "Intel(R) Arc(TM) A770 Graphics",
    "Intel Arc A770 Graphics",
    "Intel® Arc™ B580 Graphics",
    "DG2 [Arc A770]",
    "Intel(R) Data Center GPU Max 1550",
    "Intel(R) Data Center GPU Flex 170",
    "Intel(R) Iris(R) Xe Graphics",
    "Intel(R) UHD Graphics 770",
]
APPLE = ["Apple M1", "Apple M3 Max", "Apple M2 Ultra"]
CARDS = {"nvidia": NVIDIA, "amd": AMD, "intel": INTEL, "apple": APPLE}


def matches_gpu(wanted: str, name: str) -> bool:
    return matches(wanted, Gpu(name=name, memory_mb=1))


@every("vendor", CARDS)
@every(("made_by", "card"), [(v, c) for v, cards in CARDS.items() for c in cards])
def test_a_vendor_matches_its_own_cards_and_no_others(vendor: str, made_by: str, card: str) -> None:
    """Every card that a driver names belongs to exactly one vendor."""
    assert (vendor == made_by) == matches_gpu(vendor, card)
    assert (vendor == made_by) == matches_gpu(vendor.upper(), card)
    assert matches_gpu("any", card)


@every(
    ("wanted", "card", "same"),
    [
        # One model, in the spellings that people use.
        ("rtx-4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX 4090", "NVIDIA GeForce RTX 4090", True),
        ("rtx4090", "NVIDIA GeForce RTX 4090", True),
        ("rtx_4090", "NVIDIA GeForce RTX 4090", True),
        ("4090", "NVIDIA GeForce RTX 4090", True),
        ("GeForce RTX 4090", "NVIDIA GeForce RTX 4090", True),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090", True),
        ("geforce", "NVIDIA GeForce RTX 4090", True),
        ("rtx-409", "NVIDIA GeForce RTX 4090", False),
        ("rtx-40900", "NVIDIA GeForce RTX 4090", False),
        ("rtx-3090", "NVIDIA GeForce RTX 4090", False),
        ("gtx-4090", "NVIDIA GeForce RTX 4090", False),
        ("quadro", "NVIDIA GeForce RTX 4090", False),
        # Ti, SUPER and D are other models.
        ("rtx-4070", "NVIDIA GeForce RTX 4070 Ti", False),
        ("rtx-4070", "NVIDIA GeForce RTX 4070 SUPER", False),
        ("rtx-4070", "NVIDIA GeForce RTX 4070 Ti SUPER", False),
        ("rtx-4070-ti", "NVIDIA GeForce RTX 4070 Ti SUPER", False),
        ("rtx-4070-super", "NVIDIA GeForce RTX 4070 Ti SUPER", False),
        ("rtx-4070-ti", "NVIDIA GeForce RTX 4070", False),
        ("rtx-4070-ti", "NVIDIA GeForce RTX 4070 Ti", True),
        ("RTX4070Ti", "NVIDIA GeForce RTX 4070 Ti", True),
        ("rtx-4070-ti-super", "NVIDIA GeForce RTX 4070 Ti SUPER", True),
        ("gtx1660super", "GeForce GTX 1660 SUPER", True),
        ("rtx-4090", "NVIDIA GeForce RTX 4090 D", False),
        ("rtx-4060-ti", "NVIDIA GeForce RTX 4060 Ti 16GB", True),
        # So are those for laptops, wherever the driver says so.
        ("rtx-3080", "NVIDIA GeForce RTX 3080 Laptop GPU", False),
        ("rtx-3080-laptop", "NVIDIA GeForce RTX 3080 Laptop GPU", True),
        ("rtx-3080-ti", "NVIDIA GeForce RTX 3080 Ti Laptop GPU", False),
        ("rtx-2080", "GeForce RTX 2080 with Max-Q Design", False),
        ("rtx-2080", "GeForce RTX 2080 Super with Max-Q Design", False),
        ("rtx-2080-super", "GeForce RTX 2080 Super with Max-Q Design", False),
        ("GeForce RTX 2080 with Max-Q Design", "GeForce RTX 2080 with Max-Q Design", True),
        ("rtx-a2000", "NVIDIA RTX A2000 8GB Laptop GPU", False),
        ("rtx-2000-ada", "NVIDIA RTX 2000 Ada Generation Laptop GPU", False),
        ("gtx-970", "GeForce GTX 970M", False),
        ("nvidia", "NVIDIA GeForce RTX 3080 Laptop GPU", True),
        ("geforce", "NVIDIA GeForce RTX 3080 Laptop GPU", True),
        # Workstation and data centre.
        ("a100", "NVIDIA A100-SXM4-40GB", True),
        ("a100", "NVIDIA A100 80GB PCIe", True),
        ("a100-80gb", "NVIDIA A100 80GB PCIe", True),
        ("a10", "NVIDIA A100-SXM4-40GB", False),
        ("a10", "NVIDIA A10G", False),
        ("l40", "NVIDIA L40S", False),
        ("l4", "NVIDIA L40S", False),
        ("h100", "NVIDIA H100 80GB HBM3", True),
        ("t4", "Tesla T4", True),
        ("tesla-t4", "Tesla T4", True),
        ("rtx-6000", "NVIDIA RTX 6000 Ada Generation", False),
        ("rtx-6000-ada", "NVIDIA RTX 6000 Ada Generation", True),
        ("rtx-4000-ada", "NVIDIA RTX 4000 SFF Ada Generation", False),
        ("rtx-4000", "NVIDIA RTX 4000 SFF Ada Generation", False),
        ("rtx-6000", "NVIDIA RTX A6000", False),
        ("rtx-a6000", "NVIDIA RTX A6000", True),
        # AMD, Intel, Apple.
        ("rx-7900-xt", "AMD Radeon RX 7900 XTX", False),
        ("rx-7900-xtx", "AMD Radeon RX 7900 XTX", True),
        ("RX7900XTX", "AMD Radeon RX 7900 XTX", True),
        ("rx-7600", "AMD Radeon RX 7600 XT", False),
        ("rx-6700-xt", "AMD Radeon(TM) RX 6700 XT", True),
        ("radeon", "AMD Radeon PRO W7900", True),
        ("mi300x", "AMD Instinct MI300X OAM", True),
        ("mi300", "AMD Instinct MI300X OAM", False),
        ("arc-a770", "Intel(R) Arc(TM) A770 Graphics", True),
        ("arc-a770", "Intel® Arc™ A770 Graphics", True),
        ("arc-a750", "Intel(R) Arc(TM) A770 Graphics", False),
        ("m3", "Apple M3 Max", False),
        ("m3-max", "Apple M3 Max", True),
        # A part of a card is not the card.
        ("a100", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", False),
        ("a100-sxm4-40gb", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", False),
        ("a100-sxm4-40gb-mig-1g.5gb", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", True),
        ("nvidia", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", True),
        ("a40", "NVIDIA A40-8Q", False),
        ("a40-8q", "NVIDIA A40-8Q", True),
        ("t4", "GRID T4-2B", False),
    ],
)
def test_a_model_matches_that_model_and_no_other(wanted: str, card: str, same: bool) -> None:
    """A model is the whole name of a model: more digits, another suffix or a laptop's is another card."""
    assert same == matches_gpu(wanted, card)


# --- needs against abilities -------------------------------------------------------------------------------
def able(**changes: Any) -> Capabilities:
    fields: dict[str, Any] = {
        "services": ("whisper", "llm_inference"),
        "gpus": (Gpu(name="NVIDIA GeForce RTX 4090", memory_mb=24_564),),
        "cuda": "12.4",
        "models": ("base", "Large-v3"),
        "region": "eu-west",
        "price": "0.002",
        **changes,
    }
    return Capabilities(**fields)


def card(name: str, memory_mb: int) -> Gpu:
    return Gpu(name=name, memory_mb=memory_mb)


NAVI = Gpu(name="Navi 31", vendor="amd", memory_mb=20_464)
BIG_AMD_SMALL_NVIDIA = (card("AMD Instinct MI300X OAM", 196_592), card("Tesla T4", 15_360))


@every(
    ("wants", "has", "reasons"),
    [
        ({}, {}, []),
        ({}, {"gpus": (), "cuda": None, "models": (), "region": None, "price": None}, []),
        # GPU
        ({"gpu": "any"}, {}, []),
        ({"gpu": "any"}, {"gpus": ()}, ["needs a GPU, has none"]),
        ({"min_vram_gb": 1}, {"gpus": ()}, ["needs a GPU, has none"]),
        ({"gpu": "amd"}, {}, ["needs GPU amd, has NVIDIA GeForce RTX 4090"]),
        (
            {"gpu": "intel"},
            {"gpus": BIG_AMD_SMALL_NVIDIA * 2},
            ["needs GPU intel, has AMD Instinct MI300X OAM, Tesla T4"],
        ),
        # The vendor that the driver tells, where the name does not say it
        ({"gpu": "amd"}, {"gpus": (NAVI,)}, []),
        ({"gpu": "navi-31"}, {"gpus": (NAVI,)}, []),
        ({"gpu": True}, {"gpus": (NAVI,)}, []),
        ({"gpu": True}, {"gpus": ()}, ["needs a GPU, has none"]),
        ({"gpu": "nvidia"}, {"gpus": (NAVI,)}, ["needs GPU nvidia, has Navi 31 (amd)"]),
        ({"gpu": "apple"}, {"gpus": (card("Navi 31", 20_464),)}, ["needs GPU apple, has Navi 31"]),
        ({"gpu": "amd"}, {"gpus": (card("Navi 31", 20_464),)}, ["needs GPU amd, has Navi 31"]),
        ({"gpu": "amd", "min_vram_gb": 24}, {"gpus": (NAVI,)}, ["needs 24 GB on one GPU, has 20464 MiB"]),
        # Memory, of one card
        ({"min_vram_gb": 24}, {}, []),
        ({"min_vram_gb": 25}, {}, []),  # 24,564 MiB are 25.76 GB
        ({"min_vram_gb": 26}, {}, []),  # within two per cent of what the card's name says
        ({"min_vram_gb": 27}, {}, ["needs 27 GB on one GPU, has 24564 MiB"]),
        ({"min_vram_gb": 16}, {"gpus": (card("Tesla T4", 15_360),)}, []),
        ({"min_vram_gb": 8}, {"gpus": (card("NVIDIA GeForce RTX 4060", 8_188),)}, []),
        ({"min_vram_gb": 80}, {"gpus": (card("NVIDIA H100 80GB HBM3", 81_559),)}, []),
        (
            {"min_vram_gb": 48},
            {"gpus": (card("NVIDIA GeForce RTX 4090", 24_564),) * 4},
            ["needs 48 GB on one GPU, has 24564 MiB"],
        ),
        ({"min_vram_gb": 40, "gpu": "amd"}, {"gpus": BIG_AMD_SMALL_NVIDIA}, []),
        (
            {"min_vram_gb": 40, "gpu": "nvidia"},
            {"gpus": BIG_AMD_SMALL_NVIDIA},
            ["needs 40 GB on one GPU, has 15360 MiB"],
        ),
        # CUDA, as versions
        ({"cuda": "12.9"}, {"cuda": "12.10"}, []),
        ({"cuda": "12.10"}, {"cuda": "12.9"}, ["needs CUDA 12.10 or newer, has 12.9"]),
        ({"cuda": "12"}, {"cuda": "12.0"}, []),
        ({"cuda": "12.0"}, {"cuda": "12"}, []),
        ({"cuda": "12.0.1"}, {"cuda": "12"}, ["needs CUDA 12.0.1 or newer, has 12"]),
        ({"cuda": "11.8"}, {"cuda": "12"}, []),
        ({"cuda": "9"}, {"cuda": "10"}, []),
        ({"cuda": "2.1"}, {"cuda": "12.1"}, []),
        ({"cuda": "11.8"}, {"cuda": None}, ["needs CUDA 11.8 or newer, has none"]),
        # Models, all of them, in any case
        ({"models": ["base", "LARGE-V3"]}, {}, []),
        ({"models": ["base", "tiny", "Small"]}, {}, ["lacks the models tiny, Small"]),
        ({"models": ["large"]}, {}, ["lacks the models large"]),
        ({"models": ["base"]}, {"models": ()}, ["lacks the models base"]),
        # Region
        ({"region": "EU-West"}, {}, []),
        ({"region": "eu"}, {}, ["must be in region eu, is in eu-west"]),
        ({"region": "eu"}, {"region": None}, ["must be in region eu, is in none"]),
        # Price
        ({"max_price": "0.002"}, {}, []),
        ({"max_price": "0.0020"}, {"price": "0.002"}, []),
        ({"max_price": "0.001"}, {}, ["asks 0.002 a unit, the limit is 0.001"]),
        ({"max_price": "9"}, {"price": "10"}, ["asks 10 a unit, the limit is 9"]),
        ({"max_price": "0"}, {"price": None}, []),  # takes the job's limit where that is lower than the list
        # Several at once
        (
            {"cuda": "13", "region": "us", "max_price": "0"},
            {},
            [
                "needs CUDA 13 or newer, has 12.4",
                "must be in region us, is in eu-west",
                "asks 0.002 a unit, the limit is 0",
            ],
        ),
    ],
)
def test_what_is_unmet_and_why(wants: Any, has: Any, reasons: list[str]) -> None:
    """Each need that is not met is one readable reason that names both sides; none means it can serve."""
    actual = unmet("whisper", Constraints(**wants), able(**has))
    assert reasons == actual
    assert (not reasons) == satisfies("whisper", Constraints(**wants), able(**has))


@every(
    ("limit", "price", "reasons"),
    [
        (None, "0.002", []),
        (None, "0.0020", []),
        (None, "0.0021", ["asks 0.0021 a unit, the limit is 0.002, the list price"]),
        (None, "999999999999", ["asks 999999999999 a unit, the limit is 0.002, the list price"]),
        (None, None, []),
        ("0.002", None, []),
        ("0.1", "0.1", []),
        ("0.001", None, ["names no price and so asks the list price of 0.002 a unit, the limit is 0.001"]),
        ("0", None, ["names no price and so asks the list price of 0.002 a unit, the limit is 0"]),
        ("0", "0", []),
    ],
)
def test_the_list_price_stands_for_a_missing_limit_and_a_missing_price(
    limit: str | None, price: str | None, reasons: list[str]
) -> None:
    """A client without a limit pays no more than the list price, a miner without a price gets no less."""
    wants, has = Constraints(max_price=limit), able(price=price)
    assert reasons == unmet("whisper", wants, has, "0.002")
    assert (not reasons) == satisfies("whisper", wants, has, "0.002")


def test_jobs_with_another_list_price_are_of_another_class() -> None:
    """A revised price changes the miners that match, and so the class; its spelling does not."""
    classes = [wanted("whisper", Constraints(), price).job_class for price in ("0.2", "0.20", "0.3", None)]
    assert classes[0] == classes[1]
    assert 3 == len(set(classes))


@every(
    "price",
    ["-1", "1E+9", "1e9", "NaN", "Infinity", "1" * 30, "0." + "1" * 10, "01", "1.", " 1", "1\n", "٣", ""],
)
def test_what_is_no_plain_decimal_number_is_no_price(price: str) -> None:
    """Signs, exponents, NaN, many digits and other scripts are refused, as a limit and as a price."""
    with pytest.raises(ValidationError):
        Constraints(max_price=price)
    with pytest.raises(ValidationError):
        able(price=price)


def test_a_miner_serves_the_services_that_it_names_and_no_others() -> None:
    """The service is the first thing that a job needs."""
    assert ["does not run the service ffmpeg"] == unmet("ffmpeg", Constraints(), able())


def test_work_goes_to_the_smallest_miner_that_can_do_it() -> None:
    """Less memory, then fewer cards, then fewer services and models: least able first."""
    t4, big = card("Tesla T4", 15_360), card("NVIDIA H200", 143_771)
    sizes = [
        able(gpus=()),
        able(gpus=(t4,), models=()),
        able(gpus=(t4,)),
        able(gpus=(t4, t4), models=()),
        able(gpus=(big,), models=()),
        able(gpus=(t4, big), models=()),
    ]
    assert sizes == sorted(random.Random(1).sample(sizes, k=len(sizes)), key=tightness)


# --- shapes ------------------------------------------------------------------------------------------------
@every(
    "wants",
    [
        {"gpu": ""},
        {"gpu": "显卡"},
        {"gpu": "--"},
        {"gpu": "(R)"},
        {"gpu": "rtx1 " * 20},  # longer than a label once it is spelt out
        {"gpu": "x\n"},
        {"gpu": False},
        {"gpu": 1},
        {"gpu": ["nvidia"]},
        {"cuda": ""},
        {"cuda": "12."},
        {"cuda": "v12"},
        {"cuda": "12.4\n"},
        {"cuda": "1.2.3.4.5"},
        {"cuda": 12},
        {"min_vram_gb": 0},
        {"min_vram_gb": 1.5},
        {"models": [""]},
        {"models": ["m"] * 33},
        {"models": ["m" * (MAX_LABEL + 1)]},
        {"region": "eu west"},
        {"max_price": "01"},
        {"max_price": "1e3"},
        {"max_price": "-1"},
        {"max_price": "1."},
        {"max_price": "٣"},
        {"max_price": 0.5},
        {"vram": 8},
    ],
)
def test_needs_outside_the_bounds_are_none(wants: Any) -> None:
    """A need that could not be compared, or a misspelt one, is refused, never ignored."""
    with pytest.raises(ValidationError):
        Constraints(**wants)


# --- classes and profiles ----------------------------------------------------------------------------------
def filled(text: str) -> str:
    """As long as a label may be."""
    return (text * MAX_LABEL)[:MAX_LABEL]


PLAIN = st.characters(exclude_categories=["Cc", "Cs"])
MODEL_NAMES = st.sampled_from(["base", "Base", "large-v3", "LARGE-V3", "İ", "ΑΣ", "straße", "\u212amodel"])
LABELS = st.one_of(MODEL_NAMES, MODEL_NAMES.map(filled), st.text(PLAIN, min_size=1, max_size=MAX_LABEL))
PARTS = st.sampled_from(["rtx", "RX", "4090", "7900", "Ti", "XT", "A100", "GPU", "(R)", "Q", "any", "amd"])
BETWEEN = st.sampled_from(["", "", " ", "-", "_", "é", "İ", "显"])
MADE_UP_CARDS = st.lists(st.tuples(BETWEEN, PARTS, BETWEEN).map("".join), min_size=1, max_size=4).map("".join)
GPU_NAMES = st.one_of(
    st.sampled_from([c for cards in CARDS.values() for c in cards]), MADE_UP_CARDS, MADE_UP_CARDS.map(filled)
)
VERSIONS = st.lists(st.integers(0, 13), min_size=1, max_size=3).map(lambda v: ".".join(map(str, v)))
REGIONS = st.sampled_from(["eu", "EU", "us-east"])
PRICES = st.sampled_from(["0", "0.0", "0.5", "0.50", "10", "10.00", "100"])
VENDORS = st.none() | st.sampled_from(["nvidia", "amd", "intel", "apple"])
MEMORY = st.sampled_from([8_188, 15_360, 24_564, 81_559])


@st.composite
def constraints(draw: st.DrawFn) -> Constraints:
    fields = {
        "gpu": draw(st.none() | GPU_NAMES),
        "cuda": draw(st.none() | VERSIONS),
        "min_vram_gb": draw(st.none() | st.sampled_from([8, 16, 24, 80])),
        "models": draw(st.lists(LABELS, max_size=4)),
        "region": draw(st.none() | REGIONS),
        "max_price": draw(st.none() | PRICES),
    }
    try:
        return Constraints.model_validate(fields)
    except ValidationError:
        return Constraints.model_validate({**fields, "gpu": None})


CAPABILITIES = st.builds(
    Capabilities,
    services=st.lists(st.sampled_from(["whisper", "ffmpeg", "llm_inference"]), min_size=1, max_size=4),
    gpus=st.lists(st.builds(Gpu, name=GPU_NAMES, memory_mb=MEMORY, vendor=VENDORS), max_size=3),
    cuda=st.none() | VERSIONS,
    models=st.lists(LABELS, max_size=4),
    region=st.none() | REGIONS,
    price=st.none() | PRICES,
)


@settings(max_examples=examples(100))
@given(constraints())
@example(Constraints(gpu="_rtx4090"))
@example(Constraints(gpu="é4090tié"))
def test_normalising_needs_twice_is_once(wants: Constraints) -> None:
    """The normal form is a fixed point, and so is the class."""
    normal = normalise_constraints(wants)
    assert normal == normalise_constraints(normal)
    assert wanted("whisper", wants).job_class == wanted("whisper", normal).job_class


@settings(max_examples=examples(100))
@given(CAPABILITIES)
def test_normalising_abilities_twice_is_once(has: Capabilities) -> None:
    """The normal form is a fixed point, and so is the profile."""
    normal = normalise_capabilities(has)
    assert normal == normalise_capabilities(normal)
    assert profile_of(has, "rig") == profile_of(normal, "rig")


@given(constraints(), CAPABILITIES)
@settings(max_examples=examples(300))
def test_normalising_changes_no_answer(wants: Constraints, has: Capabilities) -> None:
    """Both sides may be compared as they were said or in their normal form: the answer is one."""
    answer = satisfies("whisper", wants, has)
    for w in (wants, normalise_constraints(wants)):
        for h in (has, normalise_capabilities(has)):
            assert answer == satisfies("whisper", w, h)


@settings(max_examples=examples(100))
@given(constraints(), CAPABILITIES)
def test_what_goes_into_an_event_comes_out_again(wants: Constraints, has: Capabilities) -> None:
    """The normal forms are valid themselves: an event that holds them can always be read back."""
    w, h = normalise_constraints(wants), normalise_capabilities(has)
    assert w == Constraints.model_validate_json(w.model_dump_json())
    assert h == Capabilities.model_validate_json(h.model_dump_json())


@settings(max_examples=examples(100))
@given(constraints(), CAPABILITIES, st.randoms(use_true_random=False))
def test_the_order_of_lists_means_nothing(wants: Constraints, has: Capabilities, rng: random.Random) -> None:
    """Models, services and cards in another order, or named twice, are the same class and profile."""

    def shuffled(items: tuple[Any, ...], repeat: bool = True) -> tuple[Any, ...]:
        again = [*items, *items[:1]] if repeat else [*items]
        return tuple(rng.sample(again, k=len(again)))

    wants_too = wants.model_copy(update={"models": shuffled(wants.models)})
    has_too = has.model_copy(
        update={
            "models": shuffled(has.models),
            "services": shuffled(has.services),
            "gpus": shuffled(has.gpus, repeat=False),
        }
    )
    assert wanted("whisper", wants).job_class == wanted("whisper", wants_too).job_class
    assert profile_of(has, "rig") == profile_of(has_too, "rig")
    assert satisfies("whisper", wants, has) == satisfies("whisper", wants_too, has_too)


@settings(max_examples=examples(100))
@given(constraints(), CAPABILITIES)
def test_equal_classes_give_equal_answers(wants: Constraints, has: Capabilities) -> None:
    """Jobs of one class are interchangeable, however their needs are written."""
    respelt = Constraints(
        gpu=wants.gpu and wants.gpu.replace("-", "_").replace("RX", "rx"),
        cuda=wants.cuda and f"0{wants.cuda}.0",
        min_vram_gb=wants.min_vram_gb,
        models=tuple(reversed(wants.models)),
        region=wants.region and wants.region.upper(),
        max_price=wants.max_price and (wants.max_price + ("0" if "." in wants.max_price else ".0")),
    )
    assert wanted("whisper", wants).job_class == wanted("whisper", respelt).job_class
    assert satisfies("whisper", wants, has) == satisfies("whisper", respelt, has)


@every(
    ("one", "other"),
    [
        ({"gpu": "RTX 4090"}, {"gpu": "rtx4090"}),
        ({"gpu": True}, {"gpu": "any"}),
        ({"gpu": "NVIDIA"}, {"gpu": "nvidia"}),
        ({"gpu": "Intel(R) Arc(TM) A770"}, {"gpu": "intel-arc-a770"}),
        ({"cuda": "12"}, {"cuda": "12.0.0"}),
        ({"cuda": "0"}, {"cuda": "0.0"}),
        ({"models": ["A", "b"]}, {"models": ["B", "a", "A"]}),
        ({"region": "EU"}, {"region": "eu"}),
        ({"max_price": "0.50"}, {"max_price": "0.5"}),
        ({"max_price": "10"}, {"max_price": "10.000"}),
        ({"gpu": None}, {}),
    ],
)
def test_spellings_of_one_need_are_one_class(one: Any, other: Any) -> None:
    """A class is about what is needed, not about how it is written."""
    assert (
        wanted("whisper", Constraints(**one)).job_class == wanted("whisper", Constraints(**other)).job_class
    )


def test_other_needs_are_other_classes() -> None:
    """Any difference that could change an answer makes a class of its own."""
    needs: list[dict[str, Any]] = [{}, {"gpu": "any"}, {"gpu": "nvidia"}, {"min_vram_gb": 1}]
    needs += [{"cuda": "12"}, {"cuda": "12.10"}, {"cuda": "12.1"}, {"region": "eu"}]
    needs += [{"models": ["a"]}, {"max_price": "0"}, {"max_price": "10"}]
    classes = {wanted(s, Constraints(**n)).job_class for s in ("whisper", "ffmpeg") for n in needs}
    assert 2 * len(needs) == len(classes)


def test_other_abilities_are_other_profiles() -> None:
    """Any difference that could change an answer makes a profile of its own."""
    has = [able(), able(cuda="12.5"), able(models=()), able(region=None), able(price=None), able(gpus=())]
    has += [able(gpus=able().gpus * 2), able(services=("whisper",)), able(gpus=(card("Tesla T4", 15_360),))]
    assert len(has) == len({profile_of(h, "rig") for h in has})


def test_class_and_profile_are_the_same_in_every_process() -> None:
    """They name queues and rows that outlive a process, so that nothing of a process may be in them."""
    program = (
        "from coordinator.domain.matching.needs import *\n"
        "wants = Constraints(gpu='RTX4090', models=('b', 'A', 'c'), max_price='0.50')\n"
        "print(wanted('whisper', wants).job_class)\n"
        "print(profile_of(Capabilities(services=('b', 'a'), models=('x', 'Y', 'z'), region='EU'), 'rig'))\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    # Spelt out, because a change of these would part queued jobs from their queues: it needs a migration.
    assert {"b61776e82b1cad8a14b9\n2616323aacede7d54f21\n"} == printed


def test_a_vendor_that_the_name_says_changes_no_profile() -> None:
    """Miners that name the vendor share the queue of those that leave it out, and of earlier versions."""
    names = {"NVIDIA L4": 23_034, "Navi 31": 20_464}

    def profile(*vendors: Any) -> str:
        gpus = [Gpu(name=n, memory_mb=m, vendor=v) for (n, m), v in zip(names.items(), vendors, strict=True)]
        return profile_of(Capabilities(services=("a",), gpus=tuple(gpus), cuda="12.4"), "rig")

    assert "18f7cdfa819cb0c030bc" == profile(None, None) == profile("nvidia", None)
    assert 3 == len({profile(None, None), profile(None, "amd"), profile("amd", "amd")})
    normal = normalise_capabilities(able(gpus=(card("NVIDIA L4", 23_034), NAVI, card("Navi 31", 1_024))))
    expected = [("NVIDIA L4", "nvidia"), ("Navi 31", None), ("Navi 31", "amd")]
    assert expected == [(gpu.name, gpu.vendor) for gpu in normal.gpus]


@every("vendor", ["NVIDIA", "ati", "", 1])
def test_a_vendor_is_one_of_four(vendor: Any) -> None:
    """Another vendor, or another spelling, is refused at registration."""
    with pytest.raises(ValidationError):
        Gpu(name="GPU", memory_mb=1024, vendor=vendor)


def test_a_class_is_a_word_that_queues_and_routing_keys_can_have() -> None:
    """20 hex digits."""
    for name in (wanted("whisper", Constraints()).job_class, profile_of(able(), "rig")):
        assert 20 == len(bytes.fromhex(name).hex())
