"""Questions of generated CLEVRER videos: true of what happened, in the published words, whatever the video."""

import re
from collections import Counter

import numpy as np
import pytest

from core.synth.clevrer_questions import (
    MOVING,
    STILL,
    Event,
    EventLog,
    Properties,
    ask,
    balanced,
    causes,
    counterfactual,
    describe,
    descriptive,
    explanatory,
    predictive,
)
from tests.core.clevrer_logs import random_log

THINGS = (
    Properties("red", "rubber", "cube"),
    Properties("blue", "metal", "sphere"),
    Properties("red", "rubber", "cylinder"),
    Properties("red", "metal", "cube"),
)
NAMES = ("the rubber cube", "the sphere", "the cylinder", "the metal cube")
ENTER, FIRST, SECOND, EXIT = (
    Event("enter", (1,), 4),
    Event("collision", (0, 1), 8),
    Event("collision", (0, 2), 12),
    Event("exit", (2,), 18),
)


def billiards() -> EventLog:
    """The sphere enters and hits the rubber cube, which pushes the cylinder out; the metal cube stands by."""
    inside, speeds = np.ones((24, 4), bool), np.zeros((24, 4))
    inside[:4, 1] = inside[18:, 2] = False
    speeds[2:, 1] = speeds[8:16, 0] = speeds[12:, 2] = 1.0
    without = (
        (ENTER, Event("collision", (1, 3), 14)),
        (),
        (ENTER, FIRST, Event("collision", (0, 3), 15)),
        (ENTER, FIRST, SECOND, EXIT),
    )
    return EventLog(THINGS, inside, speeds, (ENTER, FIRST, SECOND, EXIT), (Event("collision", (1, 3), 27),), without)


def table_of(log: EventLog) -> dict[str, str]:
    """All descriptive questions and their answers."""
    return {question: answer for _, question, answer in descriptive(log, NAMES)}


def offered(draw, log: EventLog) -> dict[str, dict[str, bool]]:
    """What is asked under many seeds: question -> choice -> whether it is right."""
    found: dict[str, dict[str, bool]] = {}
    for seed in range(60):
        for question, choices in draw(log, NAMES, np.random.default_rng(seed)):
            for text, is_right in choices:
                assert found.setdefault(question, {}).setdefault(text, is_right) == is_right
    return found


# ---- known answers ----


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How many objects are moving when the video begins?", "0"),
        ("How many stationary objects are there when the video begins?", "3"),
        ("How many moving objects are there when the video ends?", "1"),
        ("Are there any moving spheres when the sphere enters the scene?", "yes"),
        ("Are there any moving cubes when the sphere enters the scene?", "no"),
        ("What color is the moving object when the video ends?", "blue"),
        ("What is the shape of the object that is moving when the sphere enters the scene?", "sphere"),
        ("What is the material of the stationary cylinder when the video begins?", "rubber"),
        ("How many collisions happen?", "2"),
        ("How many collisions happen before the sphere enters the scene?", "0"),
        ("How many collisions are there after the sphere's entrance?", "2"),
        ("How many collisions happen after the collision between the rubber cube and the sphere?", "1"),
        ("Are there any collisions after the cylinder's exit?", "no"),
        ("How many spheres enter the scene?", "1"),
        ("Are there any metal objects that enter the scene before the cylinder exits the scene?", "yes"),
        ("What shape is the object that exits the scene?", "cylinder"),
        ("What shape is the first object to collide with the rubber cube?", "sphere"),
        ("What is the color of the last object to collide with the rubber cube?", "red"),
        ("What color is the object that collides with the sphere?", "red"),
    ],
)
def test_descriptive(question: str, answer: str):
    assert table_of(billiards())[question] == answer


def test_what_has_no_one_answer_is_not_asked():
    asked = table_of(billiards())
    for question in (
        "What color is the object that collides with the rubber cube?",  # two do
        "What is the color of the first object to enter the scene?",  # only one does
        "What shape is the stationary object when the video begins?",  # three are
        "What shape is the cylinder that exits the scene?",  # says so
    ):
        assert question not in asked


def test_speeds_between_still_and_moving_are_not_asked_about():
    log = billiards()
    log.speeds[0, 3] = (STILL + MOVING) / 2
    asked = table_of(log)
    assert not any(question.endswith("when the video begins?") for question in asked)
    assert "How many objects are moving when the video ends?" in asked
    log.speeds[0, 3] = 0
    log.speeds[0, 1] = (STILL + MOVING) / 2  # not in view then
    assert "How many objects are moving when the video begins?" in table_of(log)


def test_events_of_one_frame_have_no_order():
    log = billiards()
    second = Event("collision", (0, 2), FIRST.frame)
    log = EventLog(log.things, log.inside, log.speeds, (ENTER, FIRST, second, EXIT), log.future, log.without)
    asked = table_of(log)
    assert not any("first object to collide" in question for question in asked)
    assert not any("the collision between" in question for question in asked)
    assert "How many collisions happen before the cylinder exits the scene?" in asked


def test_explanatory():
    asked = offered(explanatory, billiards())
    exits = asked["Which of the following is responsible for the cylinder's exiting the scene?"]
    assert exits["The presence of the rubber cube"] is True
    assert exits["The presence of the sphere"] is True
    assert exits["The presence of the metal cube"] is False
    assert exits["The sphere's entering the scene"] is True
    assert exits["The collision between the rubber cube and the sphere"] is True
    negated = asked["Which of the following is not responsible for the cylinder's exiting the scene?"]
    assert all(negated[text] != exits[text] for text in negated)
    assert {"The presence of the metal cube", "The presence of the sphere"} <= set(negated)
    first = asked["Which of the following is responsible for the collision between the rubber cube and the sphere?"]
    assert first["The sphere's entering the scene"] is True
    assert first["The presence of the cylinder"] is first["The presence of the metal cube"] is False
    assert first["The collision between the rubber cube and the cylinder"] is False  # it comes later
    assert not any("sphere's entering the scene?" in question for question in asked)


def test_what_is_on_the_chain_but_not_needed_is_no_choice():
    log = billiards()
    kept = (log.without[0], (SECOND, EXIT), *log.without[2:])
    log = EventLog(log.things, log.inside, log.speeds, log.events, log.future, kept)
    exits = offered(explanatory, log)["Which of the following is responsible for the cylinder's exiting the scene?"]
    assert not any("sphere" in text for text in exits)
    assert exits["The presence of the rubber cube"] is True


def test_causes():
    events = (ENTER, FIRST, SECOND, EXIT)
    assert causes(events, EXIT) == ({ENTER, FIRST, SECOND}, {0, 1, 2})
    assert causes(events, FIRST) == ({ENTER}, {0, 1})
    late = Event("collision", (1, 3), 20)
    assert causes((*events, late), late) == ({ENTER, FIRST}, {0, 1, 3})


def test_predictive():
    asked = offered(predictive, billiards())
    assert set(asked) == {"What will happen next?", "Which event will happen next?"}
    for choices in asked.values():
        right = {text for text, is_right in choices.items() if is_right}
        assert right == {
            "The sphere and the metal cube collide",
            "The metal cube and the sphere collide",
            "The sphere collides with the metal cube",
            "The metal cube collides with the sphere",
        }
        # The cylinder is gone, and cubes at rest stay where they are.
        assert all("sphere" in text and "cylinder" not in text for text in choices)
    drawn = list(predictive(billiards(), NAMES, np.random.default_rng(0)))
    assert [len(choices) for _, choices in drawn] == [2]


@pytest.mark.parametrize("future", [(), (Event("enter", (2,), 25),), (Event("collision", (1, 2), 25),)])
def test_nothing_is_asked_about_a_future_that_nobody_can_foresee(future: tuple[Event, ...]):
    log = billiards()
    log = EventLog(log.things, log.inside, log.speeds, log.events, future, log.without)
    assert offered(predictive, log) == {}


def test_counterfactual():
    asked = offered(counterfactual, billiards())
    told: dict[tuple[str, bool], dict[str, bool]] = {}
    for question, choices in asked.items():
        (name,) = [name for name in NAMES if name in question.lower()]
        told.setdefault((name, " not " in question), {}).update(choices)
    removed = told["the cylinder", False]
    assert removed["The rubber cube and the sphere collide"] is True  # as before
    assert removed["The metal cube collides with the rubber cube"] is True  # the cylinder was in the way
    assert removed["The sphere and the metal cube collide"] is False
    assert not any("cylinder" in choice for choice in removed)
    removed = told["the rubber cube", False]
    assert removed["The sphere collides with the metal cube"] is True
    assert removed["The cylinder exits the scene"] is False
    negated = told["the rubber cube", True]
    assert negated["The cylinder exits the scene"] is True
    assert negated["The sphere collides with the metal cube"] is False
    # Nothing would happen without the sphere, and nothing else without the metal cube.
    assert {name for name, _ in told} == {"the rubber cube", "the cylinder"}
    forms = {question.replace("the cylinder", "it").replace("the rubber cube", "it") for question in asked}
    assert {"What will happen if it is removed?", "Without it, which event will happen?"} <= forms
    assert {"If it is removed, what will not happen?", "Which of the following will happen without it?"} <= forms


# ---- words and numbers ----


def test_descriptions_are_the_shortest_that_are_unique():
    drawn = {describe(THINGS, 0, np.random.default_rng(seed)) for seed in range(20)}
    assert drawn == {"the rubber cube"}
    drawn = {describe(THINGS, 1, np.random.default_rng(seed)) for seed in range(20)}
    assert drawn == {"the blue object", "the sphere"}
    assert describe(THINGS, 2, np.random.default_rng(0)) == "the cylinder"
    with pytest.raises(ValueError, match=r"object 1 looks like another one"):
        describe((THINGS[0], THINGS[0]), 1, np.random.default_rng(0))


def test_answers_are_balanced():
    candidates = [
        ("exist", f"{answer} {k}", answer) for answer, count in (("yes", 5), ("no", 500)) for k in range(count)
    ]
    drawn = Counter(answer for seed in range(400) for _, answer in balanced(candidates, 1, np.random.default_rng(seed)))
    assert 160 < drawn["yes"] < 240
    families = [(family, f"{family} {k}", "0") for family in ("a", "b", "c") for k in range(50)]
    questions = {question for question, _ in balanced(families, 6, np.random.default_rng(0))}
    assert sorted(question[0] for question in questions) == ["a", "a", "b", "b", "c", "c"]


# ---- every answer again, from the words alone ----


class Replay:
    """Answers questions about a log by reading them."""

    def __init__(self, log: EventLog):
        self.log = log
        self.last = len(log.inside) - 1

    def matching(self, words: str) -> set[int]:
        """Numbers of the objects that a noun phrase fits."""
        wanted = set(words.removeprefix("the ").replace("'s", "").split())
        wanted = {re.sub(r"^(cube|sphere|cylinder|object)s$", r"\1", word) for word in wanted} - {"object"}
        return {k for k, thing in enumerate(self.log.things) if wanted <= {*vars(thing).values()}}

    def the(self, words: str) -> int:
        (number,) = self.matching(words)
        return number

    def event(self, words: str) -> tuple[str, tuple[int, ...]]:
        """What a sentence or a phrase for an event tells."""
        words = words[0].lower() + words[1:]
        if match := re.fullmatch(r"(the .+?)(?:'s)? (?:enters|entering|exits|exiting) the scene", words):
            return "enter" if " enter" in words else "exit", (self.the(match[1]),)
        if match := re.fullmatch(r"(the .+)'s (entrance|exit)", words):
            return {"entrance": "enter", "exit": "exit"}[match[2]], (self.the(match[1]),)
        forms = (
            r"the collision between (.+) and (.+)",
            r"(.+) and (.+) collide",
            r"(.+?)(?:'s)? (?:collides|colliding) with (.+)",
        )
        match = next(found for form in forms if (found := re.fullmatch(form, words)))
        first, second = sorted((self.the(match[1]), self.the(match[2])))
        return "collision", (first, second)

    def frame(self, words: str) -> int:
        """Of the one event that the words name."""
        (frame,) = [event.frame for event in self.log.events if (event.kind, event.objects) == self.event(words)]
        return frame

    def span(self, words: str) -> list[Event]:
        """The events of "before ...", "after ..." or "" (all)."""
        if not words:
            return list(self.log.events)
        order, anchor = words.strip().split(" ", 1)
        frame = self.frame(anchor)
        return [e for e in self.log.events if (e.frame < frame if order == "before" else e.frame > frame)]

    def in_state(self, state: str, moment: str) -> set[int]:
        frame = {"the video begins": 0, "the video ends": self.last}.get(moment)
        frame = self.frame(moment) if frame is None else frame
        moving = set(np.flatnonzero(self.log.inside[frame] & (self.log.speeds[frame] > 0.15)).tolist())
        return moving if state == "moving" else set(np.flatnonzero(self.log.inside[frame]).tolist()) - moving

    def actors(self, verb: str, span: str) -> set[int]:
        return {e.objects[0] for e in self.span(span) if e.kind == verb.rstrip("s")}

    def who(self, words: str) -> set[int]:
        """Objects of a noun phrase with a condition."""
        states, spans = "(moving|stationary)", "((?: before| after) .+)?"
        if match := re.fullmatch(rf"{states} (.+) when (.+)", words):
            return self.matching(match[2]) & self.in_state(match[1], match[3])
        if match := re.fullmatch(rf"(.+?) that (?:is|are) {states} when (.+)", words):
            return self.matching(match[1]) & self.in_state(match[2], match[3])
        if match := re.fullmatch(rf"(.+?) that (enters?|exits?) the scene{spans}", words):
            return self.matching(match[1]) & self.actors(match[2], match[3] or "")
        if match := re.fullmatch(r"(first|second|last) object to (.+)", words):
            place = {"first": 0, "second": 1, "last": -1}[match[1]]
            if match[2].startswith("collide"):
                number = self.the(match[2].removeprefix("collide with "))
                met = [e for e in self.log.events if e.kind == "collision" and number in e.objects]
                return set(met[place].objects) - {number}
            return {[e for e in self.log.events if e.kind == match[2].split()[0]][place].objects[0]}
        match = re.fullmatch(r"object (?:that collides|to collide) with (.+)", words)
        number = self.the(match[1])
        return {k for e in self.log.events if e.kind == "collision" and number in e.objects for k in e.objects} - {
            number
        }

    def answer(self, question: str) -> str:
        text = question.removesuffix("?")
        if match := re.fullmatch(r"How many collisions (?:happen|are there)(.*)", text):
            return str(sum(event.kind == "collision" for event in self.span(match[1])))
        if match := re.fullmatch(r"Are there any collisions(.*)", text):
            return "yes" if any(event.kind == "collision" for event in self.span(match[1])) else "no"
        if match := re.fullmatch(r"Are there any (.+)", text):
            return "yes" if self.who(match[1]) else "no"
        if match := re.fullmatch(r"How many (.+) are (moving|stationary) when (.+)", text):
            return str(len(self.matching(match[1]) & self.in_state(match[2], match[3])))
        if match := re.fullmatch(r"How many (.+) are there (when .+)", text):
            return str(len(self.who(f"{match[1]} {match[2]}")))
        if match := re.fullmatch(r"How many (.+?) (enter|exit) the scene(.*)", text):
            return str(len(self.matching(match[1]) & self.actors(match[2], match[3])))
        match = re.fullmatch(r"What (?:is the )?(color|material|shape) (?:of|is) the (.+)", text)
        (number,) = self.who(match[2])
        return getattr(self.log.things[number], match[1])

    def is_right(self, kind: str, question: str, choice: str) -> bool:
        if kind == "predictive":
            return any((event.kind, event.objects) == self.event(choice) for event in self.log.future)
        if kind == "counterfactual":
            name = re.search(r"(?:if|without) (the .+?)(?: is removed)?(?:,.*)?\?", question, re.IGNORECASE)[1]
            happens = self.event(choice) in {(e.kind, e.objects) for e in self.log.without[self.the(name)]}
        else:
            match = re.fullmatch(r"Which of the following is (?:not )?responsible for (.+)\?", question)
            happens = self.explains(self.event(match[1]), choice)
        return happens != (" not " in question)

    def explains(self, effect: tuple[str, tuple[int, ...]], choice: str) -> bool:
        """Whether the effect is gone when an object of the cause, and not of the effect, is gone."""
        if match := re.fullmatch(r"The presence of (.+)", choice):
            agents, when = {self.the(match[1])}, -1
        else:
            kind, objects = self.event(choice)
            (when,) = [e.frame for e in self.log.events if (e.kind, e.objects) == (kind, objects)]
            agents = set(objects) if kind == "enter" else set(objects) - set(effect[1])
            if kind == "enter" and agents & set(effect[1]):
                (then,) = [e.frame for e in self.log.events if (e.kind, e.objects) == effect]
                return when <= then
        gone = {k for k in agents if effect not in {(e.kind, e.objects) for e in self.log.without[k]}}
        return bool(agents) and gone == agents and self.leads_to(gone, when, effect)

    def leads_to(self, agents: set[int], when: int, effect: tuple[str, tuple[int, ...]]) -> bool:
        """Whether what touches the agents from frame `when` on, and what touches that, is in the effect."""
        reached = set(agents)
        for e in self.log.events:
            if (e.kind, e.objects) == effect:
                return bool(reached & set(e.objects)) and e.frame >= when
            if e.frame >= when and set(e.objects) & reached:
                reached |= set(e.objects)
        raise AssertionError(effect)


def test_all_descriptive_answers_again():
    total = 0
    for seed in range(8):
        log = random_log(seed)
        names = [describe(log.things, k, np.random.default_rng(seed)) for k in range(len(log.things))]
        replay = Replay(log)
        for _, question, answer in descriptive(log, names):
            assert replay.answer(question) == answer, (seed, question)
            total += 1
    assert total > 5000


def test_all_choices_again():
    total: Counter[str] = Counter()
    for seed in range(150):
        log = random_log(seed)
        if len({event.frame for event in log.events}) < len(log.events):
            continue  # an order that frames do not tell
        replay = Replay(log)
        for question in ask(log, np.random.default_rng(seed)):
            for choice in question.get("choices", []):
                kind = question["question_type"]
                expected = "correct" if replay.is_right(kind, question["question"], choice["choice"]) else "wrong"
                assert choice["answer"] == expected, (seed, question["question"], choice["choice"])
                total[kind] += 1
    assert min(total.values()) > 50
    assert len(total) == 3
