"""Write docs/reference from the code: recipe fields and the help of every command.

python docs/generate.py
"""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from leyden.cli.main import run
from leyden.recipe.schema import Recipe

HERE = Path(__file__).parent
COMMANDS = [
    "run",
    "teach",
    "sft",
    "rollout",
    "score",
    "distill",
    "evaluate",
    "compare",
    "check-overlap",
    "status",
    "show",
    "verify",
    "report",
    "identify",
    "config",
]


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
        words = " ".join(about.get("description", "").split()).replace("``", "`")
        where = " *(not identity)*" if about.get("identity") is False else ""
        rows.append(f"| `{field}` | {_type(about)} | {default} | {words}{where} |")
    text = section.get("description", "").split("\n\n")[0].replace("``", "`")
    return [f"## {name}", " ".join(text.split()), "\n".join(rows)]


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
    for command in [[], *([c] for c in COMMANDS)]:
        title = " ".join(["leyden", *command])
        parts += [f"## `{title}`", f"```text\n{_help([*command, '--help'])}\n```"]
    return "\n\n".join(parts) + "\n"


def _help(arguments: list[str]) -> str:
    output = io.StringIO()
    os.environ |= {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        run(arguments)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip()


def main() -> None:
    (HERE / "reference" / "recipe.md").write_text(recipe_page(), encoding="utf-8")
    (HERE / "reference" / "cli.md").write_text(cli_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
