"""A pydantic base whose fields keep their subclass when they travel as JSON."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

TARGET = "_target_"


class Polymorphic(BaseModel):
    """Written as its fields plus ``_target_``, the class; read as that class, which must be one of the declared one.

    So a field declared ``Packager`` round-trips whatever packager it holds, those of other packages included.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {TARGET: f"{type(self).__module__}:{type(self).__qualname__}", **handler(self)}

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        if isinstance(data, dict) and TARGET in data:
            fields = {k: v for k, v in data.items() if k != TARGET}
            target = _find(data[TARGET])
            if not (isinstance(target, type) and issubclass(target, cls)):
                raise ValueError(f"{data[TARGET]!r} is no {cls.__name__}.")
            return handler(fields) if target is cls else target.model_validate(fields)
        return handler(data)


def _find(name: str) -> Any:
    module, _, qualname = name.partition(":")
    target: Any = importlib.import_module(module)
    for part in qualname.split("."):
        target = getattr(target, part)
    return target
