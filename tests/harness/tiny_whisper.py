"""A Whisper model of a few megabytes with random weights, in whisper.cpp's own file format.

What it hears makes no sense, and is the same for the same sound at temperature 0: what the tests need of a
model is that it is really loaded and really listens.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Final

import numpy as np

MAGIC: Final = 0x67676D6C
# Whisper's numbers for special tokens, and half a minute of sound, are fixed in the engine.
WORDS, VOCABULARY, AUDIO_FRAMES, TEXT_TOKENS = 50_257, 51_865, 1500, 448
MELS, SPECTRUM = 80, 201
_WIDTH, _HEADS, _LAYERS = 16, 2, 1
_F32, _F16 = 0, 1
_BLANK: Final = 220  # looked up by its text, so that no segment begins with it
_SYLLABLES: Final = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def write_model(path: Path, *, seed: int = 1) -> None:
    """Write the model. It hears words like ` bafe`, and no end of them."""
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(0, shape[-1] ** -0.5, shape)

    with path.open("wb") as file:
        sizes = (AUDIO_FRAMES, _WIDTH, _HEADS, _LAYERS, TEXT_TOKENS, _WIDTH, _HEADS, _LAYERS, MELS, _F16)
        file.write(struct.pack("<12i", MAGIC, VOCABULARY, *sizes))
        file.write(struct.pack("<2i", MELS, SPECTRUM))
        file.write(_mel_filters().tobytes())
        file.write(struct.pack("<i", WORDS))
        for number in range(WORDS):
            word = _word(number)
            file.write(struct.pack("<i", len(word)) + word)

        _tensor(file, "encoder.positional_embedding", weights(AUDIO_FRAMES, _WIDTH))
        _tensor(file, "encoder.conv1.weight", weights(_WIDTH, MELS, 3))
        _tensor(file, "encoder.conv1.bias", np.zeros((_WIDTH, 1)))
        _tensor(file, "encoder.conv2.weight", weights(_WIDTH, _WIDTH, 3))
        _tensor(file, "encoder.conv2.bias", np.zeros((_WIDTH, 1)))
        _normal(file, "encoder.ln_post")
        _tensor(file, "decoder.positional_embedding", weights(TEXT_TOKENS, _WIDTH))
        _tensor(file, "decoder.token_embedding.weight", weights(VOCABULARY, _WIDTH) * 4)
        _normal(file, "decoder.ln")
        for side, attentions in (("encoder", ("attn",)), ("decoder", ("attn", "cross_attn"))):
            block = f"{side}.blocks.0"
            for attention in attentions:
                _normal(file, f"{block}.{attention}_ln")
                for name in ("query", "key", "value", "out"):
                    _tensor(file, f"{block}.{attention}.{name}.weight", weights(_WIDTH, _WIDTH))
                    if name != "key":
                        _tensor(file, f"{block}.{attention}.{name}.bias", np.zeros(_WIDTH))
            _normal(file, f"{block}.mlp_ln")
            _tensor(file, f"{block}.mlp.0.weight", weights(4 * _WIDTH, _WIDTH))
            _tensor(file, f"{block}.mlp.0.bias", np.zeros(4 * _WIDTH))
            _tensor(file, f"{block}.mlp.2.weight", weights(_WIDTH, 4 * _WIDTH))
            _tensor(file, f"{block}.mlp.2.bias", np.zeros(_WIDTH))


def _word(number: int) -> bytes:
    if number == _BLANK:
        return b" "
    first, second = divmod(number, len(_SYLLABLES))
    return f" {_SYLLABLES[first % len(_SYLLABLES)]}{_SYLLABLES[second]}".encode()


def _mel_filters() -> np.ndarray:
    """Triangles over the spectrum, evenly spaced: (MELS, SPECTRUM)."""
    middles = np.linspace(0, SPECTRUM - 1, MELS + 2)[1:-1, None]
    width = SPECTRUM / MELS
    return np.maximum(0, 1 - np.abs(np.arange(SPECTRUM)[None, :] - middles) / width).astype(np.float32)


def _normal(file: IO[bytes], name: str) -> None:
    _tensor(file, f"{name}.weight", np.ones(_WIDTH))
    _tensor(file, f"{name}.bias", np.zeros(_WIDTH))


def _tensor(file: IO[bytes], name: str, values: np.ndarray) -> None:
    half = values.ndim > 1 and not name.endswith(("bias", "positional_embedding"))
    file.write(struct.pack("<3i", values.ndim, len(name), _F16 if half else _F32))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)))
    file.write(name.encode() + values.astype(np.float16 if half else np.float32).tobytes())
