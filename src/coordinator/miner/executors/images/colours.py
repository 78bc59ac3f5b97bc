"""From any mode of Pillow's to grey or RGB, with the same colours: depths, profiles, gamma, transparency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

from PIL import Image, ImageCms, ImageMath

from coordinator.miner.executors.images.picture import DEEP, DEEP_WHITE, Picture

WHITES: Final = (1.0, 255.0, 65535.0, 4294967295.0)
"""The usual values of white: of floats, and of 8, 16 and 32 bits."""
USUAL_GAMMA: Final = 1 / 2.2
GAMMA_TOLERANCE: Final = 0.05
"""As libpng: a smaller difference can't be seen."""
_INTENT: Final = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS: Final = ImageCms.Flags.BLACKPOINTCOMPENSATION
_GREY_LEVELS: Final = {"L;2": 85, "L;4": 17}
"""The factor by which Pillow stretches grey of 2 and 4 bits; it leaves the transparent level as it was."""
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339
_WHITE_IS_ZERO: Final = 0
_UNSIGNED: Final = 1


def normalise(
    picture: Picture, raw_mode: str, tags: Mapping[int, Any], *, deep: bool, plan: Mapping[str, Any]
) -> None:
    """Make the picture's image one of the modes that `Picture` names.

    `raw_mode` is the name of the file's pixels for Pillow, `tags` are a TIFF's. `deep` allows DEEP. Raises
    ExecutorError for pixels without a colour.
    """
    image, info = picture.image, picture.image.info
    gamma = _gamma(info)
    if image.mode[0] in "IF":
        _grey_of_more_bits(picture, tags, deep=deep, gamma=gamma)
    else:
        if ";16" in raw_mode:
            picture.note("16 bits a channel became 8")
        key = info.get("transparency")
        if ";16" in raw_mode and isinstance(key, tuple):
            info["transparency"] = tuple(value >> 8 for value in key)
        elif raw_mode in _GREY_LEVELS and isinstance(key, int):
            info["transparency"] = key * _GREY_LEVELS[raw_mode]
    _to_grey_or_rgb(picture)
    if gamma is not None and picture.image.mode != DEEP and image.mode[0] not in "IF":
        _apply_gamma(picture, gamma)
    _check_profile(picture)
    if picture.profile is not None and plan["profile"] == "srgb":
        to_srgb(picture)
    if plan["output_format"] in ("webp", "avif") and picture.image.mode in ("L", "LA"):
        to_rgb(picture)  # these formats have no grey, so a profile of grey has no place there


# --- depth -------------------------------------------------------------------------------------------------
def _grey_of_more_bits(picture: Picture, tags: Mapping[int, Any], *, deep: bool, gamma: float | None) -> None:
    image, key = picture.image, picture.image.info.get("transparency")
    sixteen = image.mode.startswith("I;16")
    whole = image.convert("I") if image.mode != "F" else image
    values = whole.convert("F")
    if (
        image.mode == "I"
        and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
        and tags.get(_BITS) == (32,)
    ):
        # Pillow reads unsigned numbers as signed ones.
        values = ImageMath.lambda_eval(lambda of: of["v"] + (of["v"] < 0) * 4294967296.0, v=values)
    low, high = values.getextrema()
    if not (
        isinstance(low, float) and isinstance(high, float) and math.isfinite(low) and math.isfinite(high)
    ):
        raise picture.bad("some pixels are no finite numbers (NaN, infinity); replace them first")
    if sixteen:
        low, white = 0.0, 4095.0 if tags.get(_BITS) == (12,) else 65535.0
    elif low >= 0:
        low, white = 0.0, next((white for white in WHITES if high <= white), high)
        picture.note(f"pixels of 32 bits: 0 is black and {white:g} is white")
    else:
        white = high
        picture.note(f"pixels of 32 bits: {low:g} is black and {high:g} is white, as some are below 0")
    span = max(white - low, 1e-30)
    values = values.point(lambda value: value * (DEEP_WHITE / span) + (-low * DEEP_WHITE / span))
    if sixteen and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = values.point(lambda value: value * -1.0 + DEEP_WHITE)
    if gamma is not None:
        power = USUAL_GAMMA / gamma
        values = ImageMath.lambda_eval(
            lambda of: (of["v"] * (1 / DEEP_WHITE)) ** power * DEEP_WHITE, v=values
        )
        picture.note(f"its gamma of {gamma:.5g} was applied")
    alpha = None
    if isinstance(key, int):
        shown = ImageMath.lambda_eval(lambda of: (of["v"] != key) * 255, v=whole)
        alpha = shown.convert("L")
    if deep and alpha is None:
        if not sixteen:
            picture.note("32 bits became 16")
        picture.image = values
        return
    picture.note(f"{'16' if sixteen else '32'} bits of grey became 8")
    picture.image = to_8_bits(values)
    if alpha is not None:
        picture.image.putalpha(alpha)


def to_8_bits(values: Image.Image) -> Image.Image:
    """DEEP values as L, rounded."""
    return values.point(lambda value: value * (255 / DEEP_WHITE) + 0.5).convert("L")


def to_16_bits(values: Image.Image) -> Image.Image:
    """DEEP values as I;16, rounded."""
    return values.point(lambda value: value * 1.0 + 0.5).convert("I").convert("I;16")


# --- modes and transparency --------------------------------------------------------------------------------
def _to_grey_or_rgb(picture: Picture) -> None:
    image = picture.image
    match image.mode:
        case "F" | "L" | "RGB" | "LA" | "RGBA" if "transparency" not in image.info:
            return
        case "1" | "L":
            picture.image = image.convert("LA" if "transparency" in image.info else "L")
        case "La":
            picture.image = image.convert("LA")
        case "CMYK" | "LAB":
            _convert_print_colours(picture)
        case "YCbCr" if _space_of(picture.profile) not in (None, "RGB "):
            picture.image = image.convert("RGB")
        case _:
            picture.image = image.convert("RGBA" if image.has_transparency_data else "RGB")


def _convert_print_colours(picture: Picture) -> None:
    """CMYK and LAB become sRGB: through the profile, if there is one for them."""
    image, profile, picture.profile = picture.image, picture.profile, None
    own = {"CMYK": "CMYK", "LAB": "Lab "}[image.mode]
    source: Any = ImageCms.createProfile("LAB") if image.mode == "LAB" else None
    if profile is not None and _space_of(profile) == own:
        source = _parsed(profile)
    if source is not None:
        try:
            picture.image = _through(image, source, "RGB")
            picture.note(f"{image.mode} became sRGB through {'its profile' if profile else 'CIE Lab'}")
            return
        except ImageCms.PyCMSError:
            pass
    if image.mode == "LAB":
        picture.image = _through(image, ImageCms.createProfile("LAB"), "RGB")
        picture.note("LAB became sRGB; its profile can't be used and was left out")
        return
    picture.image = image.convert("RGB")
    reason = "it has no profile" if profile is None else "its profile can't be used and was left out"
    picture.note(f"CMYK became sRGB by a plain formula, as {reason}: colours are approximate")


# --- profiles and gamma ------------------------------------------------------------------------------------
def _check_profile(picture: Picture) -> None:
    """Keep only a profile that describes the picture's values."""
    profile = picture.profile
    if profile is None:
        return
    space, grey = _space_of(profile), picture.image.mode in ("L", "LA", DEEP)
    if space == ("GRAY" if grey else "RGB "):
        return
    if space == "RGB " and picture.image.mode in ("L", "LA"):
        picture.image = picture.image.convert("RGBA" if picture.transparent else "RGB")
        return
    picture.profile = None
    picture.note(
        "its colour profile is broken and was left out"
        if space is None
        else f"its colour profile ({space.strip()}) is not for such pixels and was left out"
    )


def to_rgb(picture: Picture) -> None:
    """Make grey of 8 bits RGB; a profile of grey is applied."""
    if picture.image.mode in ("L", "LA"):
        if picture.profile is not None:
            to_srgb(picture)
        if picture.image.mode in ("L", "LA"):
            picture.image = picture.image.convert("RGBA" if picture.transparent else "RGB")


def to_srgb(picture: Picture) -> None:
    """Convert the picture through its profile to sRGB, which then needs no profile."""
    profile, picture.profile = picture.profile, None
    if profile is None:
        return
    if picture.image.mode == DEEP:
        picture.image = to_8_bits(picture.image)
        picture.note("16 bits of grey became 8")
    colours = picture.image.convert("L" if picture.image.mode in ("L", "LA") else "RGB")
    try:
        made = _through(colours, _parsed(profile), "RGB")
    except (ImageCms.PyCMSError, OSError):
        picture.note("its colour profile can't be used and was left out")
        return
    if picture.transparent:
        made.putalpha(picture.image.getchannel("A"))
    picture.image = made
    picture.note("its colours were converted through its profile to sRGB")


def _through(image: Image.Image, profile: Any, mode: str) -> Image.Image:
    made = ImageCms.profileToProfile(
        image, profile, ImageCms.createProfile("sRGB"), _INTENT, outputMode=mode, flags=_FLAGS
    )
    assert made is not None
    made.info = {}
    return made


def _parsed(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(BytesIO(profile))


def _space_of(profile: bytes | None) -> str | None:
    """The colour space of an ICC profile's device values ("RGB ", "GRAY", "CMYK", "Lab "); None if broken."""
    if not profile:
        return None
    try:
        return str(_parsed(profile).profile.xcolor_space)
    except (OSError, TypeError, ValueError):
        return None


def _gamma(info: Mapping[Any, Any]) -> float | None:
    """A PNG's gamma, if it differs from the usual one and nothing more exact is there."""
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or "srgb" in info or "icc_profile" in info or gamma <= 0:
        return None
    return gamma if abs(USUAL_GAMMA / gamma - 1) > GAMMA_TOLERANCE else None


def _apply_gamma(picture: Picture, gamma: float) -> None:
    power = USUAL_GAMMA / gamma
    curve = [round((level / 255) ** power * 255) for level in range(256)]
    bands = len(picture.image.getbands()) - picture.transparent
    same = list(range(256)) if picture.transparent else []
    picture.image = picture.image.point(curve * bands + same)
    picture.note(f"its gamma of {gamma:.5g} was applied")
