"""Values that come from files and command lines, against the annotations of what takes them."""

import types
from typing import Any, Union, get_args, get_origin


def complaint(value: Any, hint: Any, least: float | None = None) -> str:
    """The end of a sentence that says what is wrong with `value` where `hint` is annotated; empty if nothing is.

    least: of numbers.
    """
    if not fits(value, hint):
        wanted = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
        return f"is {value!r}, expected {wanted.replace('NoneType', 'None')}"
    if least is not None and isinstance(value, (int, float)) and not isinstance(value, bool) and not value >= least:
        return f"is {value!r}, expected at least {least}"
    return ""


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the annotated type. Whole numbers are floats, too, but truth values are no numbers."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, choice) for choice in get_args(hint))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)
