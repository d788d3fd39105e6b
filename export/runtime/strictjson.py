"""JSON without room for interpretation: one way to write it, and a reader that forgives nothing."""

import dataclasses
import json
import math
import types
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from export.runtime.errors import BundleRefused

T = TypeVar("T")

MAX_NESTING: Final = 32
MAX_NUMBER: Final = 64
_SHOWN: Final = 80


def canonical_bytes(value: object) -> bytes:
    """Return the only accepted spelling of a JSON value or dataclass: sorted, compact, ASCII, newline.

    Raises ValueError for NaN and Infinity, which JSON cannot hold.
    """
    text = json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        allow_nan=False,
        default=_plain,
    )
    return text.encode("utf-8") + b"\n"


def read_json(data: bytes, name: str) -> object:
    """Return the JSON value in ``data``; ``name`` is what the messages call it.

    Raises BundleRefused for bad UTF-8 or JSON, a repeated key, NaN, Infinity, a number too large or written with
    more than MAX_NUMBER characters, or values nested deeper than MAX_NESTING.
    """
    try:
        value: object = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=_whole,
        )
        _check_nesting(value)
        return value
    except (ValueError, RecursionError) as error:
        raise BundleRefused(f"{name} is not sound JSON", found=str(error), fix=_FIX) from error


def shape(kind: type[T], value: object, where: str) -> T:
    """Return a JSON value as the type ``kind``: a dataclass, or anything its fields may be annotated with.

    Raises BundleRefused naming the place (``where`` is its start) for a key missing or unknown, or a
    value of another type. A whole number is taken where a float is meant; a bool is never a number.
    """
    shaped: T = _shape(kind, value, where)
    return shaped


_FIX = "Make it again, by a version that belongs to this station"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")


def _whole(text: str) -> int:
    return int(_short(text))


def _short(text: str) -> str:
    # Digits take time that grows with their square, and more memory than they are worth.
    if len(text) > MAX_NUMBER:
        raise ValueError(f"a number of {len(text)} characters")
    return text


def _check_nesting(value: object) -> None:
    # By hand and not by recursion, which is what too deep a value would break.
    level, depth = [value], 0
    while level:
        if depth > MAX_NESTING:
            raise ValueError(f"values nested deeper than {MAX_NESTING}")
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
        depth += 1


def _finite(text: str) -> float:
    number = float(_short(text))
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {_cut(repeated)!r} stands twice in one object")
    return names


def _shape(kind: Any, value: object, where: str) -> Any:  # noqa: PLR0911
    origin = get_origin(kind)
    if origin is Literal:
        choices = get_args(kind)
        # 1 == True == 1.0 in Python, so equality alone would let the wrong type through.
        if any(type(value) is type(choice) and value == choice for choice in choices):
            return value
        raise _wrong(where, " or ".join(json.dumps(choice) for choice in choices), value)
    if origin in (Union, types.UnionType):
        inner = next(option for option in get_args(kind) if option is not types.NoneType)
        return None if value is None else _shape(inner, value, where)
    if origin is tuple:
        items = _exactly(list, value, where, "a list")
        return tuple(_shape(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        mapping = _exactly(dict, value, where, "an object")
        return {key: _shape(get_args(kind)[1], item, f"{where}[{_cut(key)!r}]") for key, item in mapping.items()}
    if dataclasses.is_dataclass(kind):
        return _shape_fields(kind, _exactly(dict, value, where, "an object"), where)
    if kind is float and type(value) is int and abs(value) <= 2**53:
        return float(value)
    return value if kind is object else _exactly(kind, value, where, _SPOKEN[kind])


def _shape_fields(kind: Any, mapping: dict[str, object], where: str) -> Any:
    hints = get_type_hints(kind)
    for problem, keys in (
        ("lacks", hints.keys() - mapping.keys()),
        ("has unknown", mapping.keys() - hints.keys()),
    ):
        if keys:
            names = ", ".join(map(repr, sorted(keys)))
            raise BundleRefused(f"{where} {problem} {_cut(names)}", expected=f"exactly {', '.join(hints)}", fix=_FIX)
    return kind(**{name: _shape(hint, mapping[name], f"{where}.{name}") for name, hint in hints.items()})


_SPOKEN = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _exactly(kind: type[T], value: object, where: str, spoken: str) -> T:
    if type(value) is not kind:
        raise _wrong(where, spoken, value)
    return value


def _wrong(where: str, expected: str, value: object) -> BundleRefused:
    return BundleRefused(f"{where} is not as it must be", expected=expected, found=_cut(json.dumps(value)), fix=_FIX)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
