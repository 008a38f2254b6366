"""Strict command lines on fire: what no command understands stops the program before any work."""

import difflib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

import fire

LENIENT = "--no-strict"
HELP = ("--help", "-h")


class UsageError(ValueError):
    """The command line cannot be understood; the message says which word, and what was probably meant."""


def call(commands: Mapping[str, Callable[..., Any]], words: Sequence[str]) -> Any:
    """Run the command that `words` name with the flags that they give, in any order, before or behind its name.

    Hyphens and underscores are equal, `--x` alone is True, `--nox` False, values are Python literals or else text.
    Raises UsageError for a word that the command does not take, unless the last one is --no-strict: then fire says so
    after the work is done. `--help` lists the flags.
    """
    words = list(words)
    lenient = words[-1:] == [LENIENT]
    if lenient:
        words.pop()
    if any(word in HELP for word in words):
        chosen = next((word for word in words if word in commands), next(iter(commands)))
        return fire.Fire(dict(commands), command=[chosen, "--help"])
    name, flags = _split(commands, words)
    if not lenient:
        _check(commands[name], flags)
    return fire.Fire(dict(commands), command=[name, *flags])


def _split(commands: Mapping[str, Callable[..., Any]], words: list[str]) -> tuple[str, list[str]]:
    """The command and the other words. Raises UsageError if there is none."""
    parameters = [item for command in commands.values() for item in inspect.signature(command).parameters.items()]
    switches = {name for name, parameter in parameters if isinstance(parameter.default, bool)}
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        is_value = before.startswith("--") and "=" not in before and _flag_name(before) not in switches
        if word in commands and not is_value:
            return word, words[:place] + words[place + 1 :]
    stray = [_hint(word, commands) for word in words if not word.startswith("-")]
    raise UsageError(f"no command: say {' or '.join(commands)}, or --help{next(filter(None, stray), '')}")


def _flag_name(word: str) -> str:
    return word.lstrip("-").partition("=")[0].replace("-", "_")


def _check(command: Callable[..., Any], words: list[str]) -> None:
    """Raises UsageError for flags that `command` does not have and for words that belong to none."""
    known = inspect.signature(command).parameters
    seen: set[str] = set()
    is_value = False
    for word in words:
        if word.startswith("-") and not _is_number(word):
            name = _flag_name(word)
            negated = name.removeprefix("no") if name.startswith("no") and name not in known else ""
            if negated in known and isinstance(known[negated].default, bool | None):
                name = negated
            if name not in known or not word.startswith("--"):
                raise UsageError(f"no flag {word.partition('=')[0]!r}{_hint(name, known, '--')}")
            if name in seen:
                raise UsageError(f"--{name} is given twice")
            seen.add(name)
            is_value = "=" not in word
        elif is_value:
            is_value = False
        else:
            raise UsageError(f"{word!r} belongs to no flag: every value stands behind its --flag")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _hint(word: str, known: Mapping[str, Any], prefix: str = "") -> str:
    near = difflib.get_close_matches(word, known, 1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def check_type(name: str, value: Any, annotation: Any) -> Any:
    """`value` as a flag of type `annotation` has it: numbers become text where text is meant, integers floats.

    Raises UsageError for a value of another type.
    """
    choices = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    for choice in choices:
        kind = get_origin(choice) or choice
        if choice is Any or (isinstance(value, kind) and not (isinstance(value, bool) and kind in (int, float))):
            return value
    if float in choices and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if list in [get_origin(choice) or choice for choice in choices] and isinstance(value, tuple):
        return list(value)
    if str in choices and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    names = ("None" if choice is type(None) else getattr(choice, "__name__", str(choice)) for choice in choices)
    wanted = " or ".join(names)
    raise UsageError(f"--{name} {value!r}: expected {wanted}, found {type(value).__name__}")
