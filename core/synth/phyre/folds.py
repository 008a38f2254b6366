"""PHYRE's division of tasks into training, development and test (Bakhtin et al. 2019)."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

SETUPS = ("ball_within_template", "ball_cross_template")

Split = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Training, development and test tasks."""


def check_setup(setup: str) -> None:
    if setup not in SETUPS:
        raise ValueError(f"evaluation setup {setup!r} is not one of {', '.join(SETUPS)}")


def split_tasks(tasks: Sequence[str], setup: str, fold: int) -> Split:
    """A fold of any tasks, each part sorted: names are shuffled by the md5 of name and salt, and cut.

    Within templates: 80 % of the tasks of each template train, of which 20 % are set aside for development. Cross
    template: the same of the templates.
    """
    check_setup(setup)
    if setup == "ball_within_template":
        groups = groupby(sorted(tasks), key=_template)
        kept = [task for _, group in groups for task in _cut(group, f"ball_online_ind_tasks{fold}", round)]
        train = _cut(kept, f"make_dev{fold}", int)
    else:
        kept_templates = _cut({_template(task) for task in tasks}, f"ball_cross_template_half_{fold}", round)
        train_templates = _cut(kept_templates, f"dev_ball_cross_template_half_{fold}", int)
        kept = [task for task in tasks if _template(task) in kept_templates]
        train = [task for task in kept if _template(task) in train_templates]
    parts = set(train), set(kept) - set(train), set(tasks) - set(kept)
    train, dev, test = (tuple(sorted(part)) for part in parts)
    return train, dev, test


def _template(task: str) -> str:
    return task.partition(":")[0]


def _cut(names: Iterable[str], salt: str, whole: Callable[[float], int]) -> list[str]:
    """The first 80 % of names in the order of the md5 of name and salt."""
    shuffled = sorted(names, key=lambda name: hashlib.md5(f"{name}{salt}".encode()).hexdigest())
    return shuffled[: whole(0.8 * len(shuffled))]
