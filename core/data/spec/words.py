"""The words of data strings: which of them are sets, variants and flags, and what they may have meant."""

import re
from collections.abc import Iterable
from typing import Any

from core.data.spec.catalogue import SETS, SYNONYMS
from core.spelling import nearest

SIZES = {"tiny": (48, 64), "small": (96, 128), "medium": (144, 192), "large": (192, 256), "huge": (240, 320)}
FLAGS: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(("crop_c", "crop", "c", "cc"), ("crop", True)),
    "flip": ("flip", True),
    **dict.fromkeys(("obj", "onlyobject"), ("only_object", True)),
    **dict.fromkeys(("sub_bg", "subbg", "bbg", "sbg"), ("background", "black")),
    **dict.fromkeys(("rng_bg", "rngbg", "rbg"), ("background", "random")),
    **dict.fromkeys(("rng_sob", "rngsob", "rso"), ("objects", "one")),
    **dict.fromkeys(("rng_dob", "rbg_dob", "rngdob", "rdo"), ("objects", "individual")),
    **{name: ("size", size) for name, size in SIZES.items()},
}
"""What each word of a data string sets."""


Set = tuple[str, str | None]
"""Name and variant."""
FOLDER = "folder:"
_NAMES = "|".join(name.replace("_", "[-_]") for name in sorted({*SETS, *SYNONYMS}, key=len, reverse=True))
_NAME = re.compile(rf"({_NAMES})(?=\s*($|[-:]))", re.IGNORECASE)
_COMMA_BEFORE_NAME = re.compile(rf",\s*(?=(?:{_NAMES})\s*(?:$|[:,]))", re.IGNORECASE)


def flag_of(word: str) -> tuple[str, Any]:
    """Field and value that a word sets."""
    if word in FLAGS:
        return FLAGS[word]
    if match := re.fullmatch(r"max([1-9]\d*)", word):
        return "max_objects", int(match[1])
    if match := re.fullmatch(r"\(\s*([1-9]\d*)\s*,\s*([1-9]\d*)\s*\)", word):
        return "size", (int(match[1]), int(match[2]))
    raise ValueError(f"no flag {word!r}{_nearest(word, FLAGS)}. Others are max<N> and (height,width)")


def _is_flag(word: str) -> bool:
    try:
        return bool(flag_of(word.strip().lower()))
    except ValueError:
        return False


def sets_and_words(text: str) -> tuple[tuple[Set, ...], list[str]]:
    """The sets of a data string, and the words that follow them."""
    if text.startswith("concat("):
        end = _closing(text, len("concat"))
        inner = text[len("concat(") : end]
        comma = _COMMA_BEFORE_NAME if FOLDER in inner.lower() else ","
        return tuple(map(_set, re.split(comma, inner))), text[end + 1 :].split("-")
    if text.lower().startswith(FOLDER):
        parts = text.split("-")
        first = len(parts)
        while first > 1 and (not parts[first - 1].strip() or _is_flag(parts[first - 1])):
            first -= 1
        return (_set("-".join(parts[:first])),), parts[first:]
    if match := _NAME.match(text):
        head, _, rest = text[match.end() :].partition("-")
        return (_set(match[0] + head),), rest.split("-")
    head, *words = text.split("-")
    return (_set(head),), words


def _closing(text: str, begin: int) -> int:
    """Place of the parenthesis that closes the one at `begin`."""
    depth = 0
    for place in range(begin, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    raise ValueError("a parenthesis is open. Expected concat(<set>,<set>,...)")


def _set(text: str) -> Set:
    """Name and variant."""
    name, _, variant = (part.strip() for part in text.strip().partition(":"))
    name = name.lower().replace("-", "_")
    if name == "folder":
        if not variant:
            raise ValueError("folder needs a path, such as folder:/my/pictures")
        return name, variant
    if name in SYNONYMS:
        name, _, meant = SYNONYMS[name].partition(":")
        if meant and variant:
            raise ValueError(f"{text!r} has a variant already, {meant!r}")
        variant = meant or variant
    if name not in SETS:
        raise ValueError(f"no data set {name!r}{_nearest(name, (*SETS, *SYNONYMS))}")
    variant = variant.lower()
    variants, default = SETS[name].variants, SETS[name].default_variant
    if variant and not variants:
        raise ValueError(f"{name} has no variants, found {variant!r}")
    if variant and variant not in variants:
        raise ValueError(f"no variant {variant!r} of {name}{_nearest(variant, variants)}")
    if variants and not variant and not default:
        raise ValueError(f"{name} needs a variant, one of {', '.join(f'{name}:{known}' for known in variants)}")
    return name, variant or None


def _nearest(word: str, known: Iterable[str]) -> str:
    return nearest(word, known) or f"; known are {', '.join(known)}"
