"""`python -m coordinator.dev.distributor`: compiles the contract of payouts into the package.

It needs the compiler, which is in the extra `test`. A test compiles the contract again and compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import vyper

import coordinator.settlement.evm as package

FOLDER = Path(package.__file__).parent
SOURCE, COMPILED = FOLDER / "distributor.vy", FOLDER / "distributor.json"


def compiled() -> dict[str, Any]:
    """The contract's interface and its bytes, as the package has them."""
    made = vyper.compile_code(SOURCE.read_text(), output_formats=["abi", "bytecode"])
    return {"compiler": f"vyper {vyper.__version__}", "abi": made["abi"], "bytecode": made["bytecode"]}


def main() -> None:
    COMPILED.write_text(json.dumps(compiled(), indent=1) + "\n")


if __name__ == "__main__":
    main()
