"""leyden: distil language models on the student's own outputs, with no teacher running."""

import importlib
from typing import Any

_PUBLIC = {  # name -> module
    "LeydenError": "leyden.errors",
    "Recipe": "leyden.recipe.schema",
    "Run": "leyden.run.run",
    "Store": "leyden.store.reader",
    "identify_model": "leyden.provenance.identity",
    "load_recipe": "leyden.recipe.toml",
    "open_store": "leyden.store.reader",
    "run_jobs": "leyden.pipeline.pipeline",
    "token_logprobs": "leyden.logprobs",
}
__all__ = [
    "LeydenError",
    "Recipe",
    "Run",
    "Store",
    "identify_model",
    "load_recipe",
    "open_store",
    "run_jobs",
    "token_logprobs",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `import leyden` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'leyden' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
