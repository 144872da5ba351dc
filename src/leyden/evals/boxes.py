"""Find the boxes of a completion: ``\\boxed{...}`` and ``\\fbox{...}``."""

import re

BOX_OR_BRACE = r"\\(?:boxed|fbox)\s*\{|\\boxed\s*([0-9A-Za-z])|\\[{}\\]|[{}]"
BETWEEN_BOXES = r"[\s$.,;&\\()]*(?:\\text\{)?\s*(?:and|or)?\s*\}?[\s$,\\()]*"
OR_BETWEEN_BOXES = r"(?i)[\s$,.\\)(]*or[\s$,.\\)(]*"


def last_boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}`` or ``\\fbox{...}`` that is not empty."""
    boxes = _boxes(text)
    return boxes[-1][2] if boxes else None


def last_boxes(text: str) -> list[str]:
    """The contents of the last box and of those before it that only "and" or commas separate."""
    return _last_run(text, BETWEEN_BOXES)


def boxes_joined_by_or(text: str) -> list[str]:
    """The contents of the last boxes where "or" stands between them: an answer that hedges."""
    run = _last_run(text, OR_BETWEEN_BOXES)
    return run if len(run) > 1 else []


def _last_run(text: str, between: str) -> list[str]:
    """The contents of the last box and of those before it, with no other text than ``between``."""
    boxes = _boxes(text)
    run = boxes[-1:]
    for box in reversed(boxes[:-1]):
        if not re.fullmatch(between, text[box[1] : run[0][0]]):
            break
        run.insert(0, box)
    return [content for _, _, content in run]


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of every whole box that is not empty, in order."""
    boxes, open_braces = [], []
    for match in re.finditer(BOX_OR_BRACE, text):
        if match[0] == "}":
            start, inside = open_braces.pop() if open_braces else (None, 0)
            if start is not None and (content := text[inside : match.start()]).strip():
                boxes.append((start, match.end(), content))
        elif match[0] == "{":
            open_braces.append((None, 0))
        elif match[0].endswith("{") and len(match[0]) > 2:
            open_braces.append((match.start(), match.end()))
        elif match[1]:
            boxes.append((match.start(), match.end(), match[1]))
    return sorted(boxes)
