"""Import all modules of the coordinator, so that Python writes bytecode for them and all that they import."""

import importlib
import pkgutil
import sys

import coordinator

missing = set()
for module in pkgutil.walk_packages(coordinator.__path__, "coordinator.", onerror=missing.add):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:  # of an extra that this image does not have
        missing.add(f"{module.name}: {error}")
sys.stdout.write("".join(f"not compiled: {name}\n" for name in sorted(missing)))
