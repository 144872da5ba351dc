"""The demo's task, and the functions that make its models, for the lab's tasks."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples/tiny"
sys.path.insert(0, str(FOLDER))

import make_models as models  # noqa: E402, F401
import task  # noqa: E402, F401
