"""Event logs for the questions about CLEVRER."""

import itertools

import numpy as np

from core.synth.clevrer_questions import PROPERTIES, Event, EventLog, Properties


def random_log(seed: int) -> EventLog:
    """Any order of any events: questions do not know physics."""
    rng = np.random.default_rng(seed)
    count, length = int(rng.integers(3, 7)), 40
    kinds = [Properties(*kind) for kind in itertools.product(*PROPERTIES.values())]
    things = tuple(kinds[place] for place in rng.permutation(len(kinds))[:count])
    inside = np.ones((length, count), bool)
    for number in range(count):
        if rng.random() < 0.5:
            inside[: rng.integers(1, 15), number] = False
        if rng.random() < 0.4:
            inside[rng.integers(25, length) :, number] = False

    def some_collisions(first: int, last: int, gone: int = -1) -> list[Event]:
        pairs = [pair for pair in itertools.combinations(range(count), 2) if gone not in pair]
        chosen = rng.permutation(len(pairs))[: rng.integers(0, 5)]
        return [Event("collision", pairs[place], int(rng.integers(first, last))) for place in chosen]

    crossings = [
        Event("enter" if inside[t, k] else "exit", (k,), t)
        for t in range(1, length)
        for k in range(count)
        if inside[t, k] != inside[t - 1, k]
    ]

    def ordered(events: list[Event]) -> tuple[Event, ...]:
        return tuple(sorted(events, key=lambda event: event.frame))

    events = ordered(crossings + some_collisions(15, 25))
    without = tuple(
        ordered([event for event in events if gone not in event.objects and rng.random() < 0.6])
        + tuple(some_collisions(30, length, gone))
        for gone in range(count)
    )
    speeds = np.where(rng.random((length, count)) < 0.5, 0.0, 1.0) + 0.1 * (rng.random((length, count)) < 0.02)
    return EventLog(things, inside, speeds, events, ordered(some_collisions(length, length + 32)), without)
