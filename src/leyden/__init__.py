"""leyden: distil language models on the student's own outputs, with no teacher running."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time names are imported on first use
    from leyden.engines.base import Engine, EngineSpec
    from leyden.errors import LeydenError
    from leyden.evals.results import Results, read_results
    from leyden.evals.run_program import run_program
    from leyden.logprobs import token_logprobs
    from leyden.monitor.status import run_status
    from leyden.pipeline.evaluate_model import evaluate_model
    from leyden.pipeline.pipeline import run_jobs, run_recipe
    from leyden.pipeline.verify import verify_run
    from leyden.provenance.identity import identify_model
    from leyden.recipe.schema import Evaluation, Recipe
    from leyden.recipe.toml import load_recipe
    from leyden.run.graph import Graph, resolve
    from leyden.run.run import Run
    from leyden.run.stage import Job
    from leyden.store.reader import Store, open_store

__version__: str
_PUBLIC = {  # name -> module
    "Engine": "leyden.engines.base",
    "EngineSpec": "leyden.engines.base",
    "Evaluation": "leyden.recipe.schema",
    "Graph": "leyden.run.graph",
    "Job": "leyden.run.stage",
    "LeydenError": "leyden.errors",
    "Recipe": "leyden.recipe.schema",
    "Results": "leyden.evals.results",
    "Run": "leyden.run.run",
    "Store": "leyden.store.reader",
    "evaluate_model": "leyden.pipeline.evaluate_model",
    "identify_model": "leyden.provenance.identity",
    "load_recipe": "leyden.recipe.toml",
    "open_store": "leyden.store.reader",
    "read_results": "leyden.evals.results",
    "resolve": "leyden.run.graph",
    "run_jobs": "leyden.pipeline.pipeline",
    "run_program": "leyden.evals.run_program",
    "run_recipe": "leyden.pipeline.pipeline",
    "run_status": "leyden.monitor.status",
    "token_logprobs": "leyden.logprobs",
    "verify_run": "leyden.pipeline.verify",
}
__all__ = [
    "Engine",
    "EngineSpec",
    "Evaluation",
    "Graph",
    "Job",
    "LeydenError",
    "Recipe",
    "Results",
    "Run",
    "Store",
    "evaluate_model",
    "identify_model",
    "load_recipe",
    "open_store",
    "read_results",
    "resolve",
    "run_jobs",
    "run_program",
    "run_recipe",
    "run_status",
    "token_logprobs",
    "verify_run",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import leyden` costs nothing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("leyden")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'leyden' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
