"""Write docs/reference from the code: recipe fields, the help of every command, public names.

python docs/generate.py
"""

import ast
import contextlib
import inspect
import io
import os
import re
import textwrap
from pathlib import Path
from typing import Any, TypeGuard

import leyden
from leyden.cli.main import COMMANDS, run
from leyden.recipe.schema import Recipe

HERE = Path(__file__).parent


def recipe_page() -> str:
    """Every section of a recipe with its fields, types, defaults and meanings."""
    schema = Recipe.model_json_schema()
    parts = ["# Recipe fields", "Generated from the schema by `make docs`; do not edit."]
    parts += _section("Recipe (top level)", schema, schema["$defs"])
    for name, section in schema["$defs"].items():
        parts += _section(name, section, schema["$defs"])
    return "\n\n".join(parts) + "\n"


def _section(name: str, section: dict[str, Any], others: dict[str, Any]) -> list[str]:
    required = set(section.get("required", []))
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field, about in section["properties"].items():
        default = "required" if field in required else f"`{about.get('default')!r}`"
        if "$ref" in about or isinstance(about.get("default"), dict):
            default = "" if field not in required else "required"
        words = about.get("description") or _about(_nested(about, others))
        words = " ".join(words.split()).replace("``", "`")
        where = " *(not identity)*" if about.get("identity") is False else ""
        rows.append(f"| `{field}` | {_type(about)} | {default} | {words}{where} |")
    return [f"## {name}", _about(section), "\n".join(rows)]


def _about(section: dict[str, Any]) -> str:
    """The first paragraph of a section's description."""
    text = section.get("description", "").split("\n\n")[0].replace("``", "`")
    return " ".join(text.split())


def _nested(about: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The section that a field holds; nothing for a plain field."""
    return others.get(about.get("$ref", "").rpartition("/")[2], {})


def _type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        return about["$ref"].rpartition("/")[2]
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if "anyOf" in about:
        return " or ".join(_type(option) for option in about["anyOf"])
    return about.get("type", "").replace("null", "absent")


def cli_page() -> str:
    """The help of every command."""
    parts = ["# Command line", "Generated from `--help` by `make docs`; do not edit."]
    for command in [[], *([name] for name in COMMANDS)]:
        title = " ".join(["leyden", *command])
        parts += [f"## `{title}`", f"```text\n{_help([*command, '--help'])}\n```"]
    return "\n\n".join(parts) + "\n"


def _help(arguments: list[str]) -> str:
    output = io.StringIO()
    os.environ |= {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        run(arguments)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip()


def python_page() -> str:
    """The public names of the package, as their source states them."""
    parts = ["# Python", "Generated from the source by `make docs`; do not edit. Examples are in"]
    parts[-1] += " [leyden from Python](../guides/python.md)."
    for name in leyden.__all__:
        public = getattr(leyden, name)
        node = ast.parse(inspect.getsource(public)).body[0]
        assert isinstance(node, ast.ClassDef | ast.FunctionDef)
        code = _outline(node) if isinstance(node, ast.ClassDef) else _signature(node)
        parts += [f"## `{name}`", f"From `{public.__module__}`.", _prose(node)]
        parts += [f"```text\n{code}\n```"] if code else []
    return "\n\n".join(parts) + "\n"


def _prose(node: ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").replace("``", "`")


def _signature(node: ast.FunctionDef) -> str:
    """``name(arguments) -> result``, one argument to a line where it would be long."""
    end = f") -> {ast.unparse(node.returns)}" if node.returns else ")"
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
    arguments = re.sub(r"(: [^,=]+)=", r"\1 = ", arguments)
    line = f"{node.name}({arguments}{end}"
    if len(line) <= 100:
        return line
    one_each = re.sub(r", (?=\*|\w+: )", ",\n    ", arguments)
    return f"{node.name}(\n    {one_each},\n{end}"


def _outline(node: ast.ClassDef) -> str:
    """The public fields and methods of a class, each with the first sentence about it."""
    lines = []
    for number, item in enumerate(node.body):
        if isinstance(item, ast.AnnAssign) and not ast.unparse(item.target).startswith("_"):
            after = node.body[number + 1] if number + 1 < len(node.body) else None
            text = after.value.value if _is_text(after) else ""
            lines += [f"{ast.unparse(item.target)}: {ast.unparse(item.annotation)}", *_first(text)]
        elif isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            lines += [_signature(item), *_first(ast.get_docstring(item) or "")]
    return "\n".join(lines)


def _is_text(node: ast.stmt | None) -> TypeGuard[Any]:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _first(text: str) -> list[str]:
    """The first paragraph as an indented comment."""
    words = " ".join(text.split("\n\n")[0].replace("``", "`").split())
    return textwrap.wrap(words, 96, initial_indent="    # ", subsequent_indent="    # ")


def main() -> None:
    pages = {"recipe": recipe_page(), "cli": cli_page(), "python": python_page()}
    for name, text in pages.items():
        (HERE / "reference" / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
