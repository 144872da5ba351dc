"""Two tasks with exact verifiers, each with two equally right styles of answering."""

from sums import Sums
from walk import Walk

CHARACTERS = "0123456789+=>,:."
"""One token each."""
TASKS: dict[str, Sums | Walk] = {task.name: task for task in (Sums(), Walk())}
