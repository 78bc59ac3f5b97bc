"""GPUs: their vendors, the names that drivers give them, and the names by which jobs ask for them."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

MAX_LABEL: Final = 100  # characters
ANY: Final = "any"

Label = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LABEL, pattern=r"^[^\x00-\x1f]+$")]
Vendor = Literal["nvidia", "amd", "intel", "apple"]


def _any_if_true(value: object) -> object:
    if value is not True and not isinstance(value, str):
        raise ValueError("must be a vendor, a model, any or true")
    return ANY if value is True else value


# A letter or digit among the characters of a label.
_PATTERN: Final = r"^[^\x00-\x1f]*[A-Za-z0-9][^\x00-\x1f]*$"
_Asked = Annotated[Label, Field(json_schema_extra={"pattern": _PATTERN})]
AnyOrLabel = Annotated[_Asked, BeforeValidator(_any_if_true, json_schema_input_type=_Asked | Literal[True])]
"""A name by which a job asks for a GPU; `true` is another spelling of "any"."""


class Gpu(BaseModel):
    """One card, or one slice of a card: the driver's name for it, its vendor, and its memory in MiB."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Label
    vendor: Vendor | None = None
    """Left out: the vendor that the name says."""
    memory_mb: Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
    """All of its memory. The free memory would give each machine a profile of its own at each moment."""

    @property
    def made_by(self) -> Vendor | None:
        """The declared vendor, or else the one that the name says; None if it says none."""
        return self.vendor or vendor_in(self.name)

    @property
    def label(self) -> str:
        """The name, with the vendor where the name does not say it."""
        return self.name if self.made_by == vendor_in(self.name) else f"{self.name} ({self.vendor})"


_BRANDS: Final[dict[Vendor, set[str]]] = {
    "nvidia": {"nvidia", "geforce", "rtx", "gtx", "quadro", "tesla", "titan", "jetson", "nvgpu"},
    "amd": {"amd", "radeon", "instinct", "rx", "firepro"},
    "intel": {"intel", "arc", "iris", "gaudi"},
    "apple": {"apple"},
}
_DATA_CENTRE: Final = re.compile(r"^(a|b|h|l|p|t|v|gh|gb)[0-9]{1,4}[a-z]?$")  # A100, H200, L40S, T4, GB200
# A suffix that makes the same number another model: an RTX 4070 is not an RTX 4070 Ti SUPER.
_VARIANTS: Final = {"ti", "super", "xt", "xtx", "gre", "max", "ultra", "pro", "sff", "d", "ada"}
# Words that do so at any distance: "RTX A2000 8GB Laptop GPU", "RTX 2080 with Max-Q Design", and a part of a
# card: "A100-SXM4-40GB MIG 1g.5gb", "A40-8Q" (a virtual GPU's profile).
_ANOTHER: Final = re.compile(r"^(laptop|mobile|q|mig|[0-9]{1,3}[abcq])$")


def matches(wanted: str, gpu: Gpu) -> bool:
    """Whether this GPU is of the vendor or model `wanted` ("any" matches every GPU)."""
    want, have = words_of(wanted), words_of(gpu.name)
    if want == [ANY]:
        return True
    if len(want) == 1 and want[0] in get_args(Vendor):
        return gpu.made_by == want[0]
    one_model = any(c.isdigit() for c in "".join(want))  # "geforce" is a family
    for start in range(len(have) - len(want) + 1):
        rest = have[start + len(want) :]
        another = not _VARIANTS.isdisjoint(rest[:1]) or any(map(_ANOTHER.match, rest))
        if have[start : start + len(want)] == want and not (one_model and another):
            return True
    return False


def vendor_in(name: str) -> Vendor | None:
    """The vendor that a name says: by the vendor's name, else by a brand, else by a data centre model."""
    words = words_of(name)
    for vendor in _BRANDS:
        if vendor in words:
            return vendor
    for vendor, brands in _BRANDS.items():
        if not brands.isdisjoint(words):
            return vendor
    return "nvidia" if any(_DATA_CENTRE.match(word) for word in words) else None


def words_of(text: str) -> list[str]:
    """Lower-case words without trademark signs; RTX4090 gives the same as RTX 4090."""
    words: list[str] = []
    for word in re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)", " ", text.lower())):
        split = re.sub(r"^(rtx|gtx|rx|arc)(?=[0-9])", r"\1 ", word)
        words += re.sub(r"(?<=[0-9]{4})(ti|super|xtx|xt)$", r" \1", split).split()
    return words
