"""What a misspelt word may have meant."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error's sentence that asks for the known word most like this one, if any is."""
    near = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
