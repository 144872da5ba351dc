"""Find the program in a completion: a code block, or the text itself."""

import ast
import re
import textwrap
import threading
from typing import Any

from leyden.evals.verdict import final_part

Tests = dict[str, Any]
BLOCK = re.compile(r"(?sm)^([ \t]*)(```|~~~)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\2[ \t]*$|\Z)")
NEXT_PART = re.compile(r"\n(?:class |def |#|@|if |print|```)")  # HumanEval's stop sequences
PYTHON = ("python", "python3", "py", "py3")
PARSING = threading.Lock()  # two threads in ast.parse break each other on 3.11 (cpython 106905)


def extract_program(completion: str, tests: Tests) -> str | None:
    """The program in a completion, or None.

    It is the last code block, but a block that defines the tested function goes before others.
    Without a block it is the text, where that is Python. The beginning of a program that the prompt
    gave, as HumanEval's does, is put before it.
    """
    text, function = final_part(completion), tests.get("function")
    prefix, blocks = tests.get("prefix", ""), _code_blocks(text)
    if blocks:
        names = [function] if function else _tested_names(tests)
        defining = [code for code in blocks if any(_defines(code, name) for name in names)]
        going_on = [code for code in blocks if prefix and code[:1].isspace() and not _parses(code)]
        return _after(prefix, (defining or going_on or blocks)[-1])
    if _parses(text) and (not function or _defines(text, function)):
        return _after(prefix, text)
    begun = next((t for t in (text, NEXT_PART.split(text)[0]) if _parses(prefix + t)), None)
    return prefix + begun if prefix and begun is not None and begun.strip() else None


def _code_blocks(text: str) -> list[str]:
    """Blocks tagged as Python; without any, blocks without a tag, which often show output."""
    blocks = [
        (tag.lower(), textwrap.dedent(code) if indent else code)  # a block in a list is indented
        for indent, _, tag, code in BLOCK.findall(text)
    ]
    tagged = [code for tag, code in blocks if tag in PYTHON]
    return tagged or [code for tag, code in blocks if not tag]


def _tested_names(tests: Tests) -> list[str]:
    """The functions that asserts call; the tested one is among them."""
    if tests["kind"] != "asserts":
        return []
    calls = (node for node in ast.walk(_syntax_tree(tests["tests"])) if isinstance(node, ast.Call))
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]


def _defines(code: str, function: str) -> bool:
    pattern = rf"^\s*(?:async\s+)?def\s+{re.escape(function)}\b|^class\s+Solution\b"
    assigned = rf"^{re.escape(function)}\s*="
    return bool(re.search(f"{pattern}|{assigned}", code, re.MULTILINE))


def _after(prefix: str, code: str) -> str:
    """The code after the beginning that the prompt gave, whose imports and helpers it may use."""
    if not prefix:
        return code
    if not _parses(code) and _parses(prefix + code):
        return prefix + code
    return f"{prefix}\n\n{code}" if _parses(prefix) else code


def _syntax_tree(code: str) -> ast.Module:
    with PARSING:
        return ast.parse(code)


def _parses(code: str) -> bool:
    try:
        return bool(_syntax_tree(code).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
