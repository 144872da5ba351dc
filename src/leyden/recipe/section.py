"""The base of every part of a recipe: closed, frozen, strict."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

# Marks a field that says where or how fast, not what: it cannot change a token, score or weight.
WHERE: JsonDict = {"identity": False}
# Marks a field that older versions lack. At its default it is left out, so that their runs stay as
# they are.
ADDED: JsonDict = {"identity": "unless default"}
Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]


class Section(BaseModel):
    """A part of a recipe: frozen, without unknown keys, without silent conversions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, as plain JSON values."""
        fields = type(self).model_fields
        return {
            name: _identity_value(getattr(self, name))
            for name, field in fields.items()
            if field.json_schema_extra != WHERE
            and not (field.json_schema_extra == ADDED and getattr(self, name) == field.default)
        }


def _identity_value(value: Any) -> Any:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, dict):
        return {key: _identity_value(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_identity_value(item) for item in value]
    return value
