"""Options of a coder or corpus source: checked against the signature that takes them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icdtune.errors import IcdtuneError


def parameters(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Name -> (type hint, default) of what a class or function takes.

    A class that names a dataclass as `shared` takes that one's fields as well, as `**` arguments.
    """
    function = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(function, include_extras=True)
    found = {
        name: (hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    shared = getattr(target, "shared", None)
    return found | (parameters(shared) if shared else {})


def check_options(
    target: Callable[..., Any], options: Mapping[str, Any], where: str, hidden: Sequence[str] = ()
) -> dict[str, Any]:
    """The options with their types checked and converted; those not given are left out.

    Args:
        target: a class or function; its parameters and type hints are the rule (pydantic's
            `Annotated[int, Field(ge=0)]` included).
        options: what a study file or command line gave.
        where: what the options belong to, for the error.
        hidden: parameters that are not options.

    Raises:
        IcdtuneError: an unknown option, or a value of the wrong type.
    """
    from pydantic import ConfigDict, ValidationError, create_model

    found = {name: rule for name, rule in parameters(target).items() if name not in hidden}
    for option in options:
        if option not in found:
            known = ", ".join(found) or "none"
            raise IcdtuneError(f'{where} has no option "{option}". It has: {known}')
    fields: dict[str, Any] = {
        name: (hint, ... if default is inspect.Parameter.empty else default)
        for name, (hint, default) in found.items()
    }
    model = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)
    try:
        checked = model.model_validate(dict(options))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise IcdtuneError(f'{where}: option "{name}": {problem["msg"]}. Correct it') from None
    return {name: getattr(checked, name) for name in options}
