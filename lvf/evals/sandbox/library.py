"""What programs can import: modules that each zygote loads once for all of its programs.

Programs load other modules from the interpreter's folders. They cannot where root has become
nobody and these folders belong to root alone, as below root's home: then the zygote loads all
of the standard library, and numpy, before it gives up root. No permission of root's stays.
"""

import importlib
import pkgutil
import sys
from contextlib import suppress

PRELOADED = (
    "bisect collections copy datetime decimal fractions functools hashlib heapq itertools math "
    "operator random re statistics string typing"
)
"""Loaded once, so that the programs do not each import what most of them use."""

SAMPLE = "import cmath, colorsys, dataclasses, xml.dom.minidom"
"""Imports that nothing before needs: of plain modules, a package and an extension module."""

SKIPPED = {"antigravity", "idlelib", "turtledemo", "test", "tests", "__main__"}
"""Modules that do more than define names, or that no program needs."""


def load_common() -> None:
    """Load what most programs use."""
    for module in PRELOADED.split():
        importlib.import_module(module)


def load_all() -> None:
    """Load the standard library and numpy, as far as they are installed."""
    for name in sorted(sys.stdlib_module_names - SKIPPED):
        _load_with_submodules(name)
    _load("numpy")


def _load(name: str) -> None:
    with suppress(Exception, SystemExit):  # modules of other systems
        importlib.import_module(name)


def _load_with_submodules(name: str) -> None:
    _load(name)
    for module in pkgutil.iter_modules(getattr(sys.modules.get(name), "__path__", ())):
        if module.name not in SKIPPED:
            _load_with_submodules(f"{name}.{module.name}")
