"""Questions about what happened in a video, in the words of CLEVRER (Yi et al. 2020), with answers that are true of it.

Four types: descriptive (what is seen), explanatory (what caused it), predictive (what comes after the end) and
counterfactual (what would happen without an object).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

PROPERTIES = {
    "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    "material": ("rubber", "metal"),
    "shape": ("cube", "sphere", "cylinder"),
}
STILL, MOVING = 0.05, 0.2
"""Lengths per second: slower objects are stationary, faster ones moving; no question depends on one between."""
MOST_COUNTED = 5
PER_VIDEO = {"descriptive": 11, "explanatory": 2, "predictive": 1, "counterfactual": 2}
"""At most; about what the published set has."""
SHARE_NEGATED = 0.2

Question = dict
Candidate = tuple[str, str, str]  # family, question, answer


@dataclass(frozen=True)
class Properties:
    """What an object looks like; no two objects of a video are alike."""

    color: str
    material: str
    shape: str


@dataclass(frozen=True)
class Event:
    """Kind "enter", "exit" or "collision" of one object or two, in the order of their numbers."""

    kind: str
    objects: tuple[int, ...]
    frame: int


Outcome = tuple[str, tuple[int, ...]]
"""An event but for its time."""


@dataclass(frozen=True)
class EventLog:
    """What happened in a video of T frames with N objects. Events in the order of time."""

    things: tuple[Properties, ...]
    inside: Bool[np.ndarray, "T N"]
    """Whether the centre of an object lies in the picture."""
    speeds: Float[np.ndarray, "T N"]
    events: tuple[Event, ...]
    future: tuple[Event, ...]
    """Events after the end of the video."""
    without: tuple[tuple[Event, ...], ...]
    """For each object, the events of the video that would be, were it not there."""


def ask(log: EventLog, rng: np.random.Generator) -> list[Question]:
    """Questions in the form of the published files: question_id, question_type, question, and answer or choices."""
    names = [describe(log.things, number, rng) for number in range(len(log.things))]
    asked = [
        {"question_type": "descriptive", "question": question, "answer": answer}
        for question, answer in balanced(descriptive(log, names), PER_VIDEO["descriptive"], rng)
    ]
    for kind, draw in (("explanatory", explanatory), ("predictive", predictive), ("counterfactual", counterfactual)):
        found = list(draw(log, names, rng))
        order = rng.permutation(len(found))[: PER_VIDEO[kind]]
        for question, offered in (found[place] for place in order):
            choices = [
                {"choice_id": number, "choice": text, "answer": "correct" if is_correct else "wrong"}
                for number, (text, is_correct) in enumerate(offered)
            ]
            asked.append({"question_type": kind, "question": question, "choices": choices})
    return [{"question_id": number, **question} for number, question in enumerate(asked)]


# ---- words ----


def describe(things: Sequence[Properties], number: int, rng: np.random.Generator) -> str:
    """One of the shortest phrases that fit this object of a video and no other."""
    for count in range(1, len(PROPERTIES) + 1):
        phrases = []
        for chosen in itertools.combinations(PROPERTIES, count):
            wanted = {key: getattr(things[number], key) for key in chosen}
            if sum(fits(thing, wanted) for thing in things) == 1:
                phrases.append(f"the {phrase(wanted)}")
        if phrases:
            return str(rng.choice(phrases))
    raise ValueError(f"object {number} looks like another one: {things[number]}")


def fits(thing: Properties, wanted: dict[str, str]) -> bool:
    return all(getattr(thing, key) == value for key, value in wanted.items())


def phrase(wanted: dict[str, str], plural: bool = False) -> str:
    """Like "red metal cube", or "red objects"."""
    words = [wanted[key] for key in ("color", "material") if key in wanted]
    return " ".join([*words, wanted.get("shape", "object") + "s" * plural])


def noun_phrases() -> list[dict[str, str]]:
    """Kinds of objects that are asked about: by none of their properties, by one, or by material and shape."""
    single = [{key: value} for key, values in PROPERTIES.items() for value in values]
    return [{}, *single, *({"material": a, "shape": b} for a in PROPERTIES["material"] for b in PROPERTIES["shape"])]


VERBS = {"enter": ("enter", "enters", "entering", "entrance"), "exit": ("exit", "exits", "exiting", "exit")}


def say_event(outcome: Outcome, names: Sequence[str], rng: np.random.Generator) -> str:
    """A sentence, as choices have it."""
    kind, objects = outcome
    if kind != "collision":
        text = f"{names[objects[0]]} {VERBS[kind][1]} the scene"
    else:
        first, second = (names[number] for number in rng.permutation(objects))
        text = f"{first} and {second} collide" if rng.random() < 0.5 else f"{first} collides with {second}"
    return text[0].upper() + text[1:]


def say_cause(outcome: Outcome, names: Sequence[str], rng: np.random.Generator) -> str:
    """A phrase for an event, as it stands behind "responsible for"."""
    kind, objects = outcome
    if kind != "collision":
        return f"{names[objects[0]]}'s {VERBS[kind][2]} the scene"
    first, second = (names[number] for number in rng.permutation(objects))
    if rng.random() < 0.5:
        return f"the collision between {first} and {second}"
    return f"{first}'s colliding with {second}"


# ---- descriptive ----


def balanced(candidates: Iterable[Candidate], count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions of all families in turn; within a family every answer that occurs is as likely as any other."""
    families: dict[str, dict[str, list[str]]] = {}
    for family, question, answer in candidates:
        families.setdefault(family, {}).setdefault(answer, []).append(question)
    chosen: list[tuple[str, str]] = []
    while families and len(chosen) < count:
        for family in [sorted(families)[place] for place in rng.permutation(len(families))]:
            answers = families[family]
            answer = str(rng.choice(sorted(answers)))
            questions = answers[answer]
            chosen.append((questions.pop(int(rng.integers(len(questions)))), answer))
            if not questions:
                del answers[answer]
            if not answers:
                del families[family]
    return chosen[:count]


def descriptive(log: EventLog, names: Sequence[str]) -> Iterator[Candidate]:
    """Every descriptive question that has one answer."""
    yield from _of_states(log, names)
    yield from _of_events(log, names)
    yield from _of_order(log, names)


def singular(log: EventLog) -> list[Event]:
    """Events that happen once, so that naming their objects names them."""
    outcomes = [(event.kind, event.objects) for event in log.events]
    return [event for event, outcome in zip(log.events, outcomes) if outcomes.count(outcome) == 1]


def _moments(log: EventLog, names: Sequence[str]) -> list[tuple[str, int]]:
    moments = [("when the video begins", 0), ("when the video ends", len(log.inside) - 1)]
    for event in singular(log):
        if event.kind != "collision":
            moments.append((f"when {names[event.objects[0]]} {VERBS[event.kind][1]} the scene", event.frame))
    return moments


def _of_states(log: EventLog, names: Sequence[str]) -> Iterator[Candidate]:
    """Who moves and who rests at some moment."""
    for moment, frame in _moments(log, names):
        present = np.flatnonzero(log.inside[frame])
        speeds = log.speeds[frame, present]
        if ((speeds > STILL) & (speeds < MOVING)).any():
            continue
        for state in ("moving", "stationary"):
            of_state = [log.things[k] for k, speed in zip(present, speeds) if (speed >= MOVING) == (state == "moving")]
            for wanted in noun_phrases():
                found = [thing for thing in of_state if fits(thing, wanted)]
                many = phrase(wanted, plural=True)
                if len(found) <= MOST_COUNTED:
                    yield "count states", f"How many {many} are {state} {moment}?", str(len(found))
                    yield "count states", f"How many {state} {many} are there {moment}?", str(len(found))
                yield "exist states", f"Are there any {state} {many} {moment}?", "yes" if found else "no"
                if len(found) == 1:
                    yield from _query("query states", f"{state} {phrase(wanted)} {moment}", found[0], wanted)
                    yield from _query("query states", f"{phrase(wanted)} that is {state} {moment}", found[0], wanted)


def _query(family: str, who: str, thing: Properties, known: Iterable[str] = ()) -> Iterator[Candidate]:
    for key in (key for key in PROPERTIES if key not in known):
        yield family, f"What is the {key} of the {who}?", getattr(thing, key)
        yield family, f"What {key} is the {who}?", getattr(thing, key)


def _of_events(log: EventLog, names: Sequence[str]) -> Iterator[Candidate]:
    """How many objects enter, exit or collide, in all and before or after an event."""
    for when, chosen in _spans(log, names):
        count = sum(event.kind == "collision" for event in chosen)
        if count <= MOST_COUNTED:
            yield "count events", f"How many collisions happen{when}?", str(count)
            yield "count events", f"How many collisions are there{when}?", str(count)
        yield "exist events", f"Are there any collisions{when}?", "yes" if count else "no"
        for kind, (plural, does, _, _) in VERBS.items():
            actors = [log.things[k] for k in sorted({event.objects[0] for event in chosen if event.kind == kind})]
            for wanted in noun_phrases():
                found = [thing for thing in actors if fits(thing, wanted)]
                many = phrase(wanted, plural=True)
                if len(found) <= MOST_COUNTED:
                    yield "count events", f"How many {many} {plural} the scene{when}?", str(len(found))
                question = f"Are there any {many} that {plural} the scene{when}?"
                yield "exist events", question, "yes" if found else "no"
                if len(found) == 1:
                    yield from _query("query events", f"{phrase(wanted)} that {does} the scene{when}", found[0], wanted)


def _spans(log: EventLog, names: Sequence[str]) -> Iterator[tuple[str, list[Event]]]:
    """Words for a part of the video, and the events in it. Events of one frame have no order that can be seen."""
    yield "", list(log.events)
    for anchor in singular(log):
        if sum(event.frame == anchor.frame for event in log.events) > 1:
            continue
        if anchor.kind == "collision":
            first, second = (names[number] for number in anchor.objects)
            phrases = [f"the collision between {first} and {second}", f"{first} collides with {second}"]
        else:
            name, verbs = names[anchor.objects[0]], VERBS[anchor.kind]
            phrases = [f"{name} {verbs[1]} the scene", f"{name}'s {verbs[3]}"]
        for words in phrases:
            yield f" before {words}", [event for event in log.events if event.frame < anchor.frame]
            yield f" after {words}", [event for event in log.events if event.frame > anchor.frame]


def _of_order(log: EventLog, names: Sequence[str]) -> Iterator[Candidate]:
    """Who enters, exits or collides with an object first, second, last, or as the only one."""
    for kind in VERBS:
        actors = [(event.frame, event.objects[0]) for event in log.events if event.kind == kind]
        yield from _by_ordinals(log, actors, f"{VERBS[kind][0]} the scene")
    for number, name in enumerate(names):
        actors = [
            (event.frame, sum(event.objects) - number)
            for event in log.events
            if event.kind == "collision" and number in event.objects
        ]
        yield from _by_ordinals(log, actors, f"collide with {name}")
        if len(actors) == 1:
            for who in (f"object that collides with {name}", f"object to collide with {name}"):
                yield from _query("query partners", who, log.things[actors[0][1]])


def _by_ordinals(log: EventLog, actors: list[tuple[int, int]], what: str) -> Iterator[Candidate]:
    if len(actors) < 2 or len({frame for frame, _ in actors}) < len(actors):
        return
    for ordinal, (_, number) in (("first", actors[0]), ("second", actors[1]), ("last", actors[-1])):
        yield from _query("query order", f"{ordinal} object to {what}", log.things[number])


# ---- with choices ----

Offered = list[tuple[str, bool]]


def offer(
    right: Sequence[str], wrong: Sequence[str], rng: np.random.Generator, most_of_each: int = 2
) -> Offered | None:
    """Choices in random order, some right and some wrong; None if all would be alike."""
    if not right or not wrong:
        return None
    drawn = [(right[place], True) for place in rng.permutation(len(right))[:most_of_each]]
    drawn += [(wrong[place], False) for place in rng.permutation(len(wrong))[:most_of_each]]
    return [drawn[place] for place in rng.permutation(len(drawn))]


def _negated(rng: np.random.Generator, right: list[str], wrong: list[str]) -> tuple[str, list[str], list[str]]:
    """Some questions ask for what is not so."""
    return ("not ", wrong, right) if rng.random() < SHARE_NEGATED else ("", right, wrong)


def causes(events: Sequence[Event], effect: Event) -> tuple[set[Event], set[int]]:
    """Events before `effect` that lead to it from object to object, and all objects in them and in it."""
    chain, involved = set(), set(effect.objects)
    before = events[: list(events).index(effect)]
    for event in reversed(before):
        if involved & set(event.objects):
            chain.add(event)
            involved |= set(event.objects)
    return chain, involved


def happens(outcome: Outcome, events: Iterable[Event]) -> bool:
    return any((event.kind, event.objects) == outcome for event in events)


def explanatory(log: EventLog, names: Sequence[str], rng: np.random.Generator) -> Iterator[tuple[str, Offered]]:
    """What is responsible for a collision or an exit.

    An object is responsible for what would not happen without it, an event if that holds for all its objects. A cause
    is offered as right only if it also lies on the chain of earlier events, and as wrong only if it does not; those of
    which the two tell different things are left out.
    """
    known = singular(log)
    for effect in known:
        if effect.kind == "enter":
            continue
        chain, involved = causes(log.events, effect)
        outcome = effect.kind, effect.objects
        needed = {number for number, events in enumerate(log.without) if not happens(outcome, events)}
        right, wrong = [], []
        for number in set(range(len(names))) - set(effect.objects):
            if number not in involved:
                wrong.append(f"the presence of {names[number]}")
            elif number in needed:
                right.append(f"the presence of {names[number]}")
        for event in known:
            if event == effect or event.kind == "exit":
                continue
            # That the objects of the effect are there explains only their entrance.
            agents = set(event.objects) if event.kind == "enter" else set(event.objects) - set(effect.objects)
            text = say_cause((event.kind, event.objects), names, rng)
            if event not in chain:
                wrong.append(text)
            elif agents and agents <= needed:
                right.append(text)
        no, right, wrong = _negated(rng, right, wrong)
        if offered := offer(right, wrong, rng):
            what = say_cause((effect.kind, effect.objects), names, rng)
            capital = [(text[0].upper() + text[1:], is_right) for text, is_right in offered]
            yield f"Which of the following is {no}responsible for {what}?", capital


def predictive(log: EventLog, names: Sequence[str], rng: np.random.Generator) -> Iterator[tuple[str, Offered]]:
    """Which of two events happens next: the first one after the end, or one that does not happen for a long time."""
    present = set(np.flatnonzero(log.inside[-1]).tolist())
    if not log.future or log.future[0].kind == "enter" or not set(log.future[0].objects) <= present:
        return
    coming = log.future[0].kind, log.future[0].objects
    others = [outcome for outcome in possible(present) if not happens(outcome, log.future)]
    # What nobody would expect is too easy.
    likely = [outcome for outcome in others if (log.speeds[-1, list(outcome[1])] > STILL).any()] or others
    texts = [say_event(outcome, names, rng) for outcome in likely]
    if offered := offer([say_event(coming, names, rng)], texts, rng, most_of_each=1):
        yield str(rng.choice(["What will happen next?", "Which event will happen next?"])), offered


def possible(objects: Iterable[int]) -> list[Outcome]:
    """Every exit of one object and collision of two."""
    numbers = sorted(objects)
    return [
        *(("exit", (number,)) for number in numbers),
        *(("collision", pair) for pair in itertools.combinations(numbers, 2)),
    ]


def counterfactual(log: EventLog, names: Sequence[str], rng: np.random.Generator) -> Iterator[tuple[str, Offered]]:
    """What happens without an object: of what did happen, or would happen then, and of what never does.

    Objects whose absence changes nothing are asked about only where there is no other one.
    """
    changed, unchanged = [], []
    for gone in range(len(names)):
        right, wrong, never, differs = [], [], [], False
        for outcome in possible(set(range(len(names))) - {gone}):
            then, now = happens(outcome, log.without[gone]), happens(outcome, log.events)
            differs |= then != now
            if then:
                right.append(say_event(outcome, names, rng))
            else:
                (wrong if now else never).append(say_event(outcome, names, rng))
        wrong += [never[place] for place in rng.permutation(len(never))[: 2 - min(len(wrong), 1)]]
        no, right, wrong = _negated(rng, right, wrong)
        if offered := offer(right, wrong, rng):
            (changed if differs else unchanged).append((_suppose(names[gone], no, rng), offered))
    yield from changed or unchanged


def _suppose(name: str, no: str, rng: np.random.Generator) -> str:
    asks = [f"which event will {no}happen", f"which of the following will {no}happen", f"what will {no}happen"]
    what = str(rng.choice(asks))
    forms = [f"{what} if {name} is removed?", f"{what} without {name}?"]
    forms += [f"if {name} is removed, {what}?", f"without {name}, {what}?"]
    text = str(rng.choice(forms))
    return text[0].upper() + text[1:]
