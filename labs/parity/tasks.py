"""Two tasks with exact verifiers, each with two equally right styles of answering."""

from climb import Climb
from walk import Walk

CHARACTERS = "0123456789+=>,:."
"""One token each."""
TASKS: dict[str, Climb | Walk] = {task.name: task for task in (Climb(), Walk())}
