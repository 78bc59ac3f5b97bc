"""The variables that hide GPUs from programs: a miner offers none that its programs can't see."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.miner.gpus.found import FoundGpu


def visible(gpus: Sequence[FoundGpu], chosen: str | None) -> tuple[FoundGpu, ...]:
    """The GPUs that a list such as CUDA_VISIBLE_DEVICES leaves, in its order; None hides nothing.

    An entry is an index, or an id or its beginning. As with CUDA, an unknown entry ends the list, so that an
    empty one, "-1" and "none" hide all. All slices (MIG) of a card have its index.
    """
    if chosen is None:
        return tuple(gpus)
    kept: list[FoundGpu] = []
    for entry in chosen.split(","):
        found = [gpu for gpu in gpus if _is(gpu, entry.strip())]
        if not found:
            break
        kept += [gpu for gpu in found if gpu not in kept]
    return tuple(kept)


def hidden(variables: str, before: Sequence[FoundGpu], after: Sequence[FoundGpu]) -> tuple[str, ...]:
    """One line about the GPUs that these variables hide; none if they hide none."""
    count = len(before) - len(after)
    return (f"{variables} hides {count} of {len(before)} GPUs",) if count else ()


def _is(gpu: FoundGpu, entry: str) -> bool:
    if entry.isascii() and entry.isdigit():
        return len(entry) < 10 and gpu.index == int(entry)
    # CUDA takes the beginning of an id that fits one card; "GPU-" alone would fit all.
    return len(entry) > len("GPU-") and any(name.lower().startswith(entry.lower()) for name in gpu.ids)
