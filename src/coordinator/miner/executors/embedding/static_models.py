"""Static embedding models in a folder, run by model2vec: a table of token vectors and a mean, on any CPU."""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,99}")
MODEL_FILE: Final = "model.safetensors"
"""In each model's folder: it has tensors alone, so loading it can't run code."""


class Embedded(NamedTuple):
    """One vector for each text, and the number of tokens read."""

    vectors: list[list[float]]
    tokens: int


class StaticModels:
    """The models in `folder` (None: no models), loaded at their first use and kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.names: dict[str, Path] = {}
        """Each model's folder, by its name in lower case; empty before `check`."""
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._loading = threading.Lock()

    def check(self) -> str | None:
        """Read the folder. None if it has a model, otherwise the reason."""
        self.names = {}
        if self.folder is None:
            return "EMBEDDING_MODELS_DIR is not set"
        if importlib.util.find_spec("model2vec") is None:
            return "model2vec is not installed: install coordinator[embeddings]"
        try:
            found = [path for path in self.folder.iterdir() if (path / MODEL_FILE).is_file()]
        except OSError as error:
            return f"EMBEDDING_MODELS_DIR: {error.strerror}"
        self.names = {path.name.lower(): path for path in found if _NAME.fullmatch(path.name)}
        return None if self.names else "no model in EMBEDDING_MODELS_DIR"

    def embed(self, name: str, texts: Sequence[str], truncate: bool) -> Embedded:
        """The vectors of these texts. Blocks. Raises ExecutorError: INVALID_PAYLOAD for too long a text."""
        model, tokenizer = self._model(name.lower())
        limit = model.max_length
        counts = [len(one.ids) for one in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        if not truncate and limit is not None and max(counts) > limit:
            raise ExecutorError(
                INVALID_PAYLOAD, f"texts: one has {max(counts)} tokens; the model's limit is {limit}"
            )
        vectors = model.encode(list(texts), normalize=False, use_multiprocessing=False)
        return Embedded(vectors.tolist(), sum(min(count, limit or count) for count in counts))

    def _model(self, name: str) -> tuple[Any, Any]:
        """The model, and a tokenizer like its own without truncation."""
        with self._loading:
            if name not in self._loaded:
                from model2vec import StaticModel
                from tokenizers import Tokenizer

                model = StaticModel.from_pretrained(self.names[name], force_download=False)
                tokenizer = Tokenizer.from_str(model.tokenizer.to_str())
                tokenizer.no_truncation()
                tokenizer.no_padding()
                self._loaded[name] = (model, tokenizer)
            return self._loaded[name]
