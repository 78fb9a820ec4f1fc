"""The fields of a settings model: how one is written, and what --show-config, the flags and the errors say of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


class Section(BaseModel):
    """A model of settings: it cannot be changed, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_people_write_it(cls, value: Any, info: ValidationInfo) -> Any:
        """A list may be given as its only item, and in one text with commas where no item can have a comma."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {*_members(annotation)}:  # `no` of YAML, which would count as 0
            raise ValueError("must be a number")
        if get_origin(annotation) is not tuple or not isinstance(value, str | int | float):
            return value
        if not isinstance(value, str) or get_args(annotation)[0] is str:
            return [value]
        return [item.strip() for item in value.split(",")]


def field(default: Any, description: str, *, unit: str = "-", metavar: str | None = None, **limits: Any) -> Any:
    """A field of a section, written once: `--show-config` and the flag that sets it say what stands here.

    Args:
        default: ... where a value must be given.
        description: one sentence.
        unit: what a number counts; "-" where it counts nothing.
        metavar: how the help calls the flag's value, where neither the type nor the choices say it.
        limits: as pydantic takes them.
    """
    return Field(default, description=description, json_schema_extra={"unit": unit, "metavar": metavar}, **limits)


def same_field(model: type[BaseModel], name: str) -> Any:
    """The field of another model, for one that means the same."""
    return copy.copy(model.model_fields[name])


@dataclass(frozen=True)
class KnownField:
    """What is known of a field.

    key: dotted. default: None where the field may be unset, ... where it must be given. metavar: see `field`.
    """

    key: str
    annotation: Any
    default: Any
    unit: str
    meaning: str
    metavar: str | None

    @property
    def members(self) -> tuple[Any, ...]:
        """The types that a value may have, None left out; a `Literal` is one of them."""
        return _members(self.annotation)

    @property
    def words(self) -> tuple[str, ...]:
        """The words that may be given, of all `Literal`s."""
        return tuple(word for one in self.members if get_origin(one) is Literal for word in get_args(one))


def fields_of(model: type[BaseModel], prefix: str = "", defaults: BaseModel | None = None) -> Iterator[KnownField]:
    """Every field of a model and of the sections in it, in their order.

    Args:
        prefix: before each key.
        defaults: holds the default values, where the model is a section that another one gives values.
    """
    for name, info in model.model_fields.items():
        key = prefix + (info.alias or name)
        default = getattr(defaults, name) if defaults else info.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from fields_of(type(default), f"{key}.", default)
        else:
            yield _known(key, info, default)


def field_of(model: type[BaseModel], key: str) -> KnownField:
    """The field of a dotted key.

    Raises:
        KeyError: there is none.
    """
    for known in fields_of(model):
        if known.key == key:
            return known
    raise KeyError(key)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all fields, and of the sections themselves."""
    for name, info in model.model_fields.items():
        key, annotation = prefix + (info.alias or name), info.annotation
        yield key
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from keys_of(annotation, f"{key}.")


def _members(annotation: Any) -> tuple[Any, ...]:
    every = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return tuple(one for one in every if one is not type(None))


def _known(key: str, info: FieldInfo, default: Any) -> KnownField:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    metavar = extra.get("metavar")
    return KnownField(
        key=key,
        annotation=info.annotation,
        default=... if default is PydanticUndefined else default,
        unit=str(extra.get("unit", "-")),
        meaning=info.description or "",
        metavar=str(metavar) if metavar else None,
    )


@dataclass(frozen=True)
class FieldDescription:
    """One field of the config as --show-config shows it; `key` is dotted."""

    key: str
    type: str
    value: str
    default: str
    unit: str
    meaning: str


def describe_fields(config: BaseModel) -> list[FieldDescription]:
    """Every field of a config, in the order of the sections."""
    values = config.model_dump(by_alias=True)
    described = []
    for known in fields_of(type(config)):
        value: Any = values
        for part in known.key.split("."):
            value = value[part]
        described.append(
            FieldDescription(
                known.key,
                _type_name(known.annotation),
                _shown(value),
                _shown(known.default),
                known.unit,
                known.meaning,
            )
        )
    return described


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _type_name(annotation: Any) -> str:
    choices = get_args(annotation)
    if choices and choices[-1] is Ellipsis:
        return f"list of {_type_name(choices[0])}"
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    if choices:
        return " or ".join(map(_type_name, choices))
    return "none" if annotation is type(None) else str(annotation.__name__)
