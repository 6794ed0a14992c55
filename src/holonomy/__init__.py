"""holonomy: models whose state lives on a manifold, and learning that need not be back-propagation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holonomy.recipes.launch import evaluate, load, resume, train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    """Imports the public functions when they are first used, so that `import holonomy` stays light."""
    if name in __all__:
        from holonomy.recipes import launch

        return getattr(launch, name)
    raise AttributeError(f"module 'holonomy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
