"""Strict command lines on argparse; nothing here imports torch, so that a misspelt flag is answered at once."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn


class StrictParser(argparse.ArgumentParser):
    """Hyphens and underscores in flags are equal; an unknown flag ends the process with the nearest name."""

    def __init__(self, program: str, description: str):
        summary, _, rest = description.partition("\n\n")
        super().__init__(
            prog=f"python {program}",
            description=summary,
            epilog=rest,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def refuse(self, flag: str, why: str) -> None:
        self.add_argument(
            f"--{flag}", nargs="*", action=_Refusal, const=why, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """What the words say; ends the process, with the nearest flag, for words that are not understood."""
        words = [_with_underscores(word) for word in words]
        # First, for a misspelt flag that is required is missing, too.
        for word in words:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                self._no_flag(flag)
        arguments, unknown = self.parse_known_args(words)
        if unknown and not unknown[0].startswith("-"):
            self.error(f"unexpected word {unknown[0]!r}: quote a path with spaces")
        if unknown:
            self._no_flag(unknown[0])
        return arguments

    def _no_flag(self, flag: str) -> NoReturn:
        offered = (action for action in self._actions if not isinstance(action, _Refusal))
        flags = [name for action in offered for name in action.option_strings if name.startswith("--")]
        near = difflib.get_close_matches(flag, flags, 1, cutoff=0.5)
        self.error(f"no flag {flag!r}" + (f"; did you mean {near[0]!r}?" if near else "; see --help"))


class _Refusal(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None
    ) -> NoReturn:
        parser.error(f"{option}: {self.const}")


def _with_underscores(word: str) -> str:
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if word.startswith("--") else word


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text!r}")
    return int(text)
