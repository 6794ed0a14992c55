"""holonomy: models whose state lives on a manifold, and learning that need not be back-propagation."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holonomy.recipes.launch import evaluate, load, resume, train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load", "resume", "train"]


class _Training(ModuleType):
    """The subpackage `holonomy.train`, which is called like the function of that name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Trains a configuration or a recipe as a new run; see `holonomy.recipes.launch.train`."""
        return importlib.import_module("holonomy.recipes.launch").train(*arguments, **named)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # The import system puts the subpackage in the place of the function as soon as anything of it is imported.
        if name == "train" and isinstance(value, ModuleType):
            value.__class__ = _Training
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Imports the public functions when they are first used, so that `import holonomy` stays light."""
    if name == "train":
        return importlib.import_module("holonomy.train")
    if name in __all__:
        return getattr(importlib.import_module("holonomy.recipes.launch"), name)
    raise AttributeError(f"module 'holonomy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
