"""The arguments of a task, as its declaration names and types them."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

import msgspec

from shared.errors import FieldError, InvalidInput

_AT = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$\.(?P<name>[^.\[`]*)(?P<path>[^`]*)`)?", re.DOTALL)


class Arguments:
    """Checks them before a task is sent, and turns what has travelled back into what was declared.

    What travels is what JSON knows; a declared `datetime` or Struct is sent as text or an object.
    Raises TypeError for a declaration that cannot be used.
    """

    def __init__(self, declaration: Callable[..., Any]) -> None:
        signature = inspect.signature(declaration)
        types = get_type_hints(declaration, include_extras=True)
        self.types = get_type_hints(declaration)
        self.names = tuple(signature.parameters)
        self._positional = 0
        fields: list[Any] = []
        for name, parameter in signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(f"{declaration.__name__}: {parameter} cannot be declared; name each argument")
            if name not in types:
                raise TypeError(f"{declaration.__name__}: its argument {name} has no type")
            self._positional += parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            is_required = parameter.default is parameter.empty
            fields.append((name, types[name]) if is_required else (name, types[name], msgspec.UNSET))
        self.required = tuple(field[0] for field in fields if len(field) == 2)
        self.struct = msgspec.defstruct(declaration.__name__, fields, kw_only=True)
        # Of a call that is still to be given an argument.
        optional = [(field[0], field[1], msgspec.UNSET) for field in fields]
        self._partial = msgspec.defstruct(declaration.__name__, optional, kw_only=True)
        msgspec.convert({}, self._partial)  # msgspec looks at types when it first needs them
        self.signature = signature

    def check(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, is_partial: bool = False
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What is to travel. `is_partial`: the last positional argument is the result of the task before it.

        Raises InvalidInput naming `args[0]` or `kwargs.message`.
        """
        if not isinstance(args, list | tuple):
            raise InvalidInput(FieldError("args", "must be a list or a tuple"))
        if not isinstance(kwargs, Mapping):
            raise InvalidInput(FieldError("kwargs", "must map names to values"))
        sent = tuple(_sendable(f"args[{index}]", value) for index, value in enumerate(args))
        named = {name: _sendable(f"kwargs.{_short(name)}", value) for name, value in kwargs.items()}
        self._convert(sent, named, is_partial=is_partial)
        return sent, named

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """What the body is called with. Raises InvalidInput as `check`."""
        values = self._convert(args, kwargs)
        given = self.names[: len(args)]
        return [getattr(values, name) for name in given], {name: getattr(values, name) for name in kwargs}

    def _convert(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, is_partial: bool = False) -> Any:
        positional = len(args) + is_partial
        taken = self.names[:positional]
        if positional > self._positional or kwargs.keys() - self.names or not kwargs.keys().isdisjoint(taken):
            raise InvalidInput(*self._misplaced(positional, kwargs))
        if missing := [name for name in self.required if name not in taken and name not in kwargs]:
            raise InvalidInput(*(FieldError(f"kwargs.{name}", "this argument is required") for name in missing))
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        try:
            return msgspec.convert(given, self._partial if is_partial else self.struct, strict=True)
        except msgspec.ValidationError as error:
            raise InvalidInput(self._field_error(str(error), len(args))) from error

    def _misplaced(self, positional: int, kwargs: Mapping[str, Any]) -> list[FieldError]:
        allowed = ", ".join(self.names) or "none"
        errors = []
        if positional > self._positional:
            errors.append(FieldError("args", f"are too many; the arguments are: {allowed}"))
        for name in kwargs:
            if name not in self.names:
                errors.append(FieldError(f"kwargs.{_short(name)}", f"there is no such argument; there are: {allowed}"))
            elif name in self.names[:positional]:
                errors.append(FieldError(f"kwargs.{name}", "is given among the args already"))
        return errors

    def _field_error(self, message: str, positional: int) -> FieldError:
        match = _AT.fullmatch(message)
        name = (match and match["name"]) or ""
        if match is None or name not in self.names:
            return FieldError("args", message)
        index = self.names.index(name)
        field = f"args[{index}]" if index < positional else f"kwargs.{name}"
        return FieldError(f"{field}{match['path'].replace('[...]', '[]')}", match["what"])


def _sendable(field: str, value: object) -> Any:
    try:
        return msgspec.to_builtins(value)
    except Exception as error:
        # Whatever an object of the caller's own may raise.
        raise InvalidInput(FieldError(field, f"cannot be sent: {error}")) from error


def _short(name: object) -> str:
    """A name that may be anything, and as long."""
    return str(name)[:100]
