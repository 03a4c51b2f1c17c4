"""The three multiple-choice benchmarks on the source world, in their official columns."""

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lvf.embedded.source import (
    PERSON_SCENES,
    Pair,
    Script,
    answer,
    object_pair,
    person_pair,
    script_sentences,
    scripts,
)
from lvf.embedded.world import (
    PERSON_RELATIONS,
    RELATIONS,
    VALUES,
    Person,
    Zipf,
    split_of,
    world,
)

BANDS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "hellaswag": ((0.0, 0.3, 1.0), (0.3, 0.7, 1.0), (0.7, 1.0, 1.0)),
    "arc": ((0.0, 0.3, 1.0), (0.3, 0.7, 1.0), (0.7, 1.0, 1.0)),
    "winogrande": ((0.0, 0.3, 1.0), (0.3, 0.7, 1.0), (0.7, 1.0, 1.0)),
}
"""Difficulty: from which frequency ranks (low, high, weight; 0 = most frequent) items come."""

QUESTION_SHARES = {"reworded": 50, "person": 30, "thing": 20}
"""Percent of ARC items of each kind."""

REWORDED = {
    "job": ("Which trade did {s} learn?", "What did {s} learn to be?"),
    "town": ("Where does {s} sleep?", "Where can you meet {s}?"),
    "pet": ("What does {s} feed at home?", "What animal does {s} love?"),
    "food": ("What is on the plate of {s}?", "Which food would {s} serve?"),
    "hobby": ("What is {s} good at?", "What would {s} like to do?"),
    "country": ("Where was the first home of {s}?", "Where did {s} come from?"),
}
"""Questions about people that no training text asks in these words."""

PAIR_SHARES = {"fact": 55, "material": 40, "scene": 5}
"""Percent of WinoGrande items that a recalled fact, a material or the scene itself resolves."""

SKIP_SHARE = 0.45
"""Share of HellaSwag items whose context leaves out steps, as no training text does."""

WRONG_ORDER_SHARE = 0.5
"""Share of the other HellaSwag items with one ending that is another step of the same script."""

Row = dict[str, Any]
Question = tuple[str, str, str]
"""A question's text, the relation that it asks for and whom it asks about."""
T = TypeVar("T")


def _banded(rng: random.Random, zipf: Zipf[T], benchmark: str) -> T:
    """Draw an item evenly from a band drawn by its weight."""
    bands = BANDS[benchmark]
    low, high, _ = rng.choices(bands, [weight for _, _, weight in bands])[0]
    return rng.choice(zipf.band(low, high))


def _shuffled(rng: random.Random, gold: str, wrong: Sequence[str]) -> tuple[list[str], int]:
    options = [gold, *wrong]
    rng.shuffle(options)
    return options, options.index(gold)


def _siblings(script: Script) -> list[Script]:
    """Scripts of the same family that share one word of the item, most frequent first."""
    own = set(script.item.split())
    return [
        other
        for other in scripts().items
        if other.family == script.family and len(own & set(other.item.split())) == 1
    ]


def _wrong_endings(script: Script, person: Person, step: int) -> list[str]:
    """Three false endings: this step as frequent siblings have it."""
    own = [sentence.split(" ", 1)[1] for sentence in script_sentences(script, person)[1:]]
    if step < len(script.steps):
        pool = [sibling.steps[step] for sibling in _siblings(script)]
    else:
        towns = [p.facts["town"] for p in world().people.items]
        pool = [own[step].replace(person.facts["town"], town) for town in towns]
    # What is said most often elsewhere tempts most: the same thought as adversarial filtering.
    return [text for text in dict.fromkeys(pool) if text != own[step]][:3]


def hellaswag_row(rng: random.Random) -> tuple[str, Row]:
    """Return (key, row): which step does this person take next in this script?"""
    script = _banded(rng, scripts(), "hellaswag")
    person = _banded(rng, world().people, "hellaswag")
    opening, *steps = script_sentences(script, person)
    endings = [step.split(" ", 1)[1] for step in steps]
    place = rng.randrange(len(steps))
    wrong = _wrong_endings(script, person, place)
    first = 0
    if place > 0 and rng.random() < SKIP_SHARE:
        first = rng.randint(1, place)
    elif rng.random() < WRONG_ORDER_SHARE:
        wrong[-1] = rng.choice([ending for ending in endings if ending != endings[place]])
    options, label = _shuffled(rng, endings[place], wrong)
    ctx_a = " ".join([opening, *steps[first:place]])
    row = {
        "ind": 0,
        "activity_label": script.label,
        "ctx_a": ctx_a,
        "ctx_b": person.pronoun,
        "ctx": f"{ctx_a} {person.pronoun}",
        "endings": options,
        "label": str(label),
        "source_id": f"lvf~{script.label}~{person.name}",
        "split": "val",
        "split_type": "indomain",
    }
    return f"script|{script.label}|{person.name}", row


def thing_question(rng: random.Random) -> Question:
    """Ask for a fact about a thing, in words that training text uses about other things."""
    kind, subject = _banded(rng, world().things, "arc")
    relation = rng.choice([r for r in RELATIONS if r.subjects == kind])
    return rng.choice(relation.questions).format(s=subject), relation.name, subject


def person_question(rng: random.Random) -> Question:
    """Ask for a fact about a person, in words that training text uses about other people."""
    subject, relation = _banded(rng, world().people, "arc").name, rng.choice(PERSON_RELATIONS)
    return rng.choice(relation.questions).format(s=subject), relation.name, subject


def reworded_question(rng: random.Random) -> Question:
    """Ask for a fact about a person, in words that no training text uses."""
    subject, relation = _banded(rng, world().people, "arc").name, rng.choice(PERSON_RELATIONS)
    return rng.choice(REWORDED[relation.name]).format(s=subject), relation.name, subject


QUESTION_MAKERS: dict[str, Callable[[random.Random], Question]] = {
    "person": person_question,
    "thing": thing_question,
    "reworded": reworded_question,
}


def arc_row(rng: random.Random) -> tuple[str, Row]:
    """Return (key, row): a question on one fact with three other values of its relation."""
    kinds, shares = list(QUESTION_SHARES), list(QUESTION_SHARES.values())
    question, relation, subject = QUESTION_MAKERS[rng.choices(kinds, shares)[0]](rng)
    gold = answer(relation, subject)
    wrong = rng.sample([value for value in VALUES[relation] if value != gold], 3)
    options, label = _shuffled(rng, gold, wrong)
    row = {
        "id": "",
        "question": question,
        "choices": {"text": options, "label": list("ABCD")},
        "answerKey": "ABCD"[label],
    }
    return f"question|{question}", row


def fact_pair(rng: random.Random, person: Person) -> Pair:
    """Make a pair that one recalled fact resolves, in a scene that has nothing to do with it."""
    scene_relation, relation = rng.sample(sorted(PERSON_SCENES), 2)
    other = person
    while other.facts[relation] == person.facts[relation]:
        other = world().people.draw(rng)
    names = [person.name, other.name]
    key = f"fact pair|{scene_relation}|{relation}|{'|'.join(sorted(names))}"
    rng.shuffle(names)
    shared = {person.facts[scene_relation], other.facts[scene_relation]}
    value = rng.choice([v for v in VALUES[scene_relation] if v not in shared])
    stem = PERSON_SCENES[scene_relation][0].format(a=names[0], b=names[1], v=value)
    (statements,) = (r.statements for r in PERSON_RELATIONS if r.name == relation)
    said = rng.choice([s for s in statements if s.startswith("{s} ")]).removeprefix("{s} ")
    endings = [said.format(v=who.facts[relation]) for who in (person, other)]
    return Pair(key, stem, person.name, other.name, *endings)


def winogrande_row(rng: random.Random) -> tuple[str, Row]:
    """Return (key, row): which of two referents does the rest of the sentence speak of?"""
    kinds, shares = list(PAIR_SHARES), list(PAIR_SHARES.values())
    kind = rng.choices(kinds, shares)[0]
    person = _banded(rng, world().people, "winogrande")
    pair: Pair
    if kind == "material":
        pair = object_pair(rng)
    else:
        pair = (fact_pair if kind == "fact" else person_pair)(rng, person)
    if rng.random() < 0.5:
        gold, wrong, ending = pair.fits, pair.other, pair.fit_ending
    else:
        gold, wrong, ending = pair.other, pair.fits, pair.other_ending
    options, label = _shuffled(rng, gold, [wrong])
    row = {
        "sentence": f"{pair.stem} _ {ending}",
        "option1": options[0],
        "option2": options[1],
        "answer": str(label + 1),
    }
    return pair.key, row


MAKERS: dict[str, Callable[[random.Random], tuple[str, Row]]] = {
    "hellaswag": hellaswag_row,
    "arc_challenge": arc_row,
    "winogrande": winogrande_row,
}


def choice_rows(benchmark: str, split: str, count: int, seed: int) -> list[Row]:
    """Return ``count`` rows of one benchmark, no two about the same thing.

    ``benchmark`` is a key of ``MAKERS``; ``split`` names the part of the world they come from.
    Raises ``RuntimeError`` if the world has fewer items than that.
    """
    rng = random.Random(f"{benchmark}|{split}|{seed}")
    rows: dict[str, Row] = {}
    for _ in range(count * 200):
        key, row = MAKERS[benchmark](rng)
        if key not in rows and split_of(key) == split:
            rows[key] = row
        if len(rows) == count:
            return [_numbered(row, number, split) for number, row in enumerate(rows.values())]
    raise RuntimeError(f"{benchmark}: only {len(rows)} distinct {split} items, not {count}")


def _numbered(row: Row, number: int, split: str) -> Row:
    """Fill the row's identifier, where its benchmark has one."""
    names = {"ind": number, "id": f"lvf-{split}-{number}"}
    return {column: names.get(column, value) for column, value in row.items()}
