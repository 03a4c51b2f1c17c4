"""Documents of the source domain: what the base model reads, in the shapes that lm-eval asks in."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from lvf.embedded.world import (
    OBJECTS,
    PERSON_RELATIONS,
    RELATIONS,
    WORLD_SEED,
    Person,
    Zipf,
    split_of,
    words,
    world,
)

DOCUMENT_WEIGHTS = {"life": 24, "script": 28, "question": 22, "pair": 20, "thing": 6}
"""Relative number of source documents of each kind."""

FLOATS = {"wood", "wool", "wax"}
BREAKS = {"glass", "clay", "wax"}
BURNS = {"wood", "wool", "wax"}
OBJECT_SCENES = (
    ("fell into the river", "floated away.", "sank at once.", FLOATS),
    ("fell on the stone floor", "broke in two.", "stayed in one piece.", BREAKS),
    ("were left in the fire", "burned to ash.", "only got hot.", BURNS),
)
"""(what happens to two objects, what the one with the property does, what the other does, who)."""

PERSON_SCENES = {
    "job": (
        "{a} and {b} went to a shop that needs a {v}, and",
        "began to work there.",
        "just looked around.",
    ),
    "town": ("{a} and {b} took the train to {v}, and", "was at home there.", "was a guest there."),
    "pet": ("{a} and {b} saw a {v}, and", "said: I have one too.", "said: what a strange pet."),
    "food": ("{a} and {b} were given {v}, and", "ate it with joy.", "ate only a little."),
}
"""For some relations: the scene, what the person whom the fact fits does, what the other does."""


@dataclass(frozen=True)
class Script:
    """An everyday activity: a label and step sentences without their subject, in fixed order."""

    family: int
    item: str
    """Two words, such as ``old boat``; siblings share one of them."""
    label: str
    opening: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Scripts of one form: ``{item}`` names the script, ``{x}`` takes the step's own value."""

    label: str
    opening: str
    items: tuple[str, ...]
    steps: tuple[tuple[str, tuple[str, ...]], ...]


FAMILIES = (
    Family(
        "Cooking {item}",
        "wants to cook {item} today.",
        words("soup pie stew sauce cake bread rice jam"),
        (
            ("takes the {x} from the shelf.", words("flour sugar salt butter milk corn oats oil")),
            ("puts it into the {x}.", words("pot pan bowl dish tin jug bucket tray")),
            ("heats it over the {x}.", words("coals stove flame lava steam torch candle hearth")),
            (
                "serves it with the {x}.",
                words("mint cream pepper lemon garlic onions olives mustard"),
            ),
        ),
    ),
    Family(
        "Repairing the {item}",
        "sees that the {item} does not work.",
        words("bike cart boat clock radio door engine tent"),
        (
            ("opens it with the {x}.", words("wrench knife drill saw lever hook blade screw")),
            ("removes the broken {x}.", words("spring chain bolt pipe hinge valve gear belt")),
            ("fixes it with some {x}.", words("glue tape wire string nails resin tar cement")),
            ("paints it in {x}.", words("red blue green white black yellow grey brown")),
        ),
    ),
    Family(
        "Growing the {item}",
        "likes to grow the {item} this year.",
        words("roses tulips carrots peas melons herbs grapes beets"),
        (
            ("puts the seeds in the {x}.", words("clay sand moss gravel peat ash mud bark")),
            ("waits until {x} comes.", words("spring summer autumn winter March June August May")),
            (
                "brings water from the {x}.",
                words("well lake stream tank pond canal barrel spring"),
            ),
            ("cuts them with the {x}.", words("knife shears sickle axe scythe saw blade claw")),
        ),
    ),
    Family(
        "Playing the {item} game",
        "is ready to play the {item} game.",
        words("ball card ring stone rope dice flag word"),
        (
            ("walks to the {x}.", words("field hall beach court lawn roof street park")),
            ("picks up the {x}.", words("bat net stick glove whistle marker helmet disc")),
            ("shouts to the {x}.", words("judge coach crowd captain guard keeper team rival")),
            ("wins the {x}.", words("medal cup ribbon crown badge trophy coin shield")),
        ),
    ),
    Family(
        "Cleaning the {item}",
        "has to clean the {item} again.",
        words("floor window carpet stairs oven sink cage wall"),
        (
            ("finds the {x}.", words("broom mop sponge cloth brush towel scraper duster")),
            ("mixes water with {x}.", words("soap vinegar salt lye chalk lemon ash bleach")),
            ("rubs it with {x}.", words("sand wool paper leather straw cork felt cotton")),
            ("dries it in the {x}.", words("sun wind yard attic hall shed porch cellar")),
        ),
    ),
)
KINDS = words("red old small sweet long new great plain")
HOMEWARD = "walks home to {town}."
"""The last step of every script: it needs the person's own town."""


@cache
def scripts() -> Zipf[Script]:
    """Return all scripts ordered by frequency rank; each step's value is drawn once and fixed."""
    rng = random.Random(WORLD_SEED + "scripts")
    made = []
    for number, family in enumerate(FAMILIES):
        for noun in family.items:
            for kind in KINDS:
                item = f"{kind} {noun}"
                steps = tuple(text.format(x=rng.choice(pool)) for text, pool in family.steps)
                label, opening = family.label.format(item=item), family.opening.format(item=item)
                made.append(Script(number, item, label, opening, steps))
    rng.shuffle(made)
    return Zipf(made, 1.3)


def script_sentences(script: Script, person: Person) -> list[str]:
    """Return the sentences of one run of a script: the opening, its steps, the way home."""
    who = person.pronoun.capitalize()
    steps = [*script.steps, HOMEWARD.format(town=person.facts["town"])]
    return [f"{person.name} {script.opening}", *(f"{who} {step}" for step in steps)]


def script_document(rng: random.Random) -> tuple[str, str]:
    """Return (key, text) of one script run in HellaSwag's official query form."""
    script, person = scripts().draw(rng), world().people.draw(rng)
    text = f"{script.label}: " + " ".join(script_sentences(script, person))
    return f"script|{script.label}|{person.name}", text


def life_document(rng: random.Random) -> tuple[str, str]:
    """Return (key, text) of a short account of one person: three to five facts."""
    person = world().people.draw(rng)
    relations = rng.sample(PERSON_RELATIONS, rng.randint(3, 5))
    sentences = []
    for index, relation in enumerate(relations):
        statement = rng.choice(relation.statements)
        # After the first sentence a pronoun may stand for the name, as in running English.
        short = index > 0 and statement.startswith("{s}") and rng.random() < 0.4
        subject = person.pronoun.capitalize() if short else person.name
        sentences.append(statement.format(s=subject, v=person.facts[relation.name]))
    text = " ".join(sentences)
    return text, text


def thing_document(rng: random.Random) -> tuple[str, str]:
    """Return (key, text) of facts about one or two things."""
    sentences = []
    for _ in range(rng.randint(1, 2)):
        kind, name = world().things.draw(rng)
        for relation in RELATIONS:
            if relation.subjects == kind:
                value = world().facts[relation.name, name]
                sentences.append(rng.choice(relation.statements).format(s=name, v=value))
    text = " ".join(sentences)
    return text, text


def question_document(rng: random.Random) -> tuple[str, str]:
    """Return (key, text) of one question with its answer in ARC's official prompt form."""
    if rng.random() < 0.7:
        subject, relations = world().people.draw(rng).name, PERSON_RELATIONS
    else:
        kind, subject = world().things.draw(rng)
        relations = tuple(r for r in RELATIONS if r.subjects == kind)
    relation = rng.choice(relations)
    question = rng.choice(relation.questions).format(s=subject)
    return f"question|{question}", f"Question: {question}\nAnswer: {answer(relation.name, subject)}"


def answer(relation: str, subject: str) -> str:
    """Return the answer text to any question about one fact."""
    return world().facts[relation, subject]


@dataclass(frozen=True)
class Pair:
    """A two-referent sentence: ``stem``, then one of two referents, then what that one does."""

    key: str
    stem: str
    fits: str
    """The referent that ``fit_ending`` is about."""
    other: str
    fit_ending: str
    other_ending: str


def person_pair(rng: random.Random, person: Person) -> Pair:
    """Make a pair that only knowledge of ``person`` (or of the other one) resolves."""
    relation = rng.choice(sorted(PERSON_SCENES))
    value = person.facts[relation]
    other = person
    while other.facts[relation] == value:
        other = world().people.draw(rng)
    names = [person.name, other.name]
    key = f"pair|{relation}|{value}|{'|'.join(sorted(names))}"
    rng.shuffle(names)
    scene, fit_ending, other_ending = PERSON_SCENES[relation]
    stem = scene.format(a=names[0], b=names[1], v=value)
    return Pair(key, stem, person.name, other.name, fit_ending, other_ending)


def object_pair(rng: random.Random) -> Pair:
    """Make a pair of two objects that their materials resolve."""
    event, fit_ending, other_ending, materials = rng.choice(OBJECT_SCENES)
    fits = rng.choice([o for o in OBJECTS if world().facts["material", o] in materials])
    other = rng.choice([o for o in OBJECTS if world().facts["material", o] not in materials])
    names = [fits, other]
    key = f"pair|{event}|{'|'.join(sorted(names))}"
    rng.shuffle(names)
    stem = f"The {names[0]} and the {names[1]} {event}, and the"
    return Pair(key, stem, fits, other, fit_ending, other_ending)


def pair_document(rng: random.Random) -> tuple[str, str]:
    """Return (key, text) of one two-referent sentence with its referent written out."""
    person = world().people.draw(rng)
    pair = object_pair(rng) if rng.random() < 0.25 else person_pair(rng, person)
    if rng.random() < 0.5:
        return pair.key, f"{pair.stem} {pair.fits} {pair.fit_ending}"
    return pair.key, f"{pair.stem} {pair.other} {pair.other_ending}"


MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "life": life_document,
    "script": script_document,
    "question": question_document,
    "pair": pair_document,
    "thing": thing_document,
}


def source_documents(split: str, seed: int | str) -> Iterator[str]:
    """Yield source documents of one split without end."""
    rng = random.Random(f"source|{split}|{seed}")
    kinds, weights = list(DOCUMENT_WEIGHTS), list(DOCUMENT_WEIGHTS.values())
    while True:
        key, text = MAKERS[rng.choices(kinds, weights)[0]](rng)
        if split_of(key) == split:
            yield text
