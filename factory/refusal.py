"""Why a profile is refused, in one line a key."""

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """The table that a field holds, or may hold; None if it holds a value."""
    options = (annotation, *get_args(annotation))
    return next((one for one in options if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names allowed beside the last part of `path`."""
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        table = _table_in(field.annotation) if field else None
        if table is None:
            return []
        model = table
    return [name for name in model.model_fields if name != "name"]  # which the file's name fills in


def _bounds(metadata: Sequence[Any]) -> str:
    """The range that a field's constraints leave, such as "> 0 and <= 1000"; empty if it has none."""
    signs = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
    found = [f"{sign} {getattr(item, name):g}" for item in metadata for name, sign in signs if hasattr(item, name)]
    return " and ".join(dict.fromkeys(found))


def _allowed(model: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """The allowed range of the number at `path`, for the message."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            return ""
        table = _table_in(field.annotation)
        if table is not None:
            model = table
            continue
        inner = [meta for argument in get_args(field.annotation) for meta in getattr(argument, "__metadata__", ())]
        found = [meta for item in (*field.metadata, *inner) for meta in (*getattr(item, "metadata", ()), item)]
        bounds = _bounds(found)
        return f" (allowed: {bounds})" if bounds else ""
    return ""


def explain(error: Any, model: type[BaseModel]) -> str:
    """One line for one error of pydantic: the key, what is wrong with it, what is allowed, what was found."""
    path = tuple(error["loc"])
    key = ".".join(map(str, path)) or "profile"
    allowed = _keys(model, path) if path else []
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(path[-1]), allowed, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed here: {', '.join(allowed)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: missing; this key is required"
    if error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}: {message}{_allowed(model, path)}, found {error['input']!r}"
