"""The facts of the generated world: people, places and things, and how often each is met.

Everything here is a pure function of ``WORLD_SEED``. A fact is met with Zipf frequency in its
subject's rank, so that a model's knowledge is graded: the head is certain, the tail is fragile.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Generic, TypeVar

WORLD_SEED = "lvf-world-1"

SHARES = {"train": 72, "validation": 4, "heldout": 4, "benchmark": 20}
"""Percent of all keys (what an item is about) that belong to each split."""

T = TypeVar("T")


def split_of(key: str) -> str:
    """Name the one split that everything about ``key`` belongs to (a hash, so it never moves)."""
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    for name, share in SHARES.items():
        if point < share:
            return name
        point -= share
    raise AssertionError("shares do not sum to 100")


def words(text: str) -> tuple[str, ...]:
    """Split a list of words that is written as one string."""
    return tuple(text.split())


class Zipf(Generic[T]):
    """Draws of ``items`` with probability proportional to ``(rank + 2) ** -exponent``."""

    def __init__(self, items: Sequence[T], exponent: float = 1.0) -> None:
        self.items = items
        self.weights = list(accumulate((rank + 2.0) ** -exponent for rank in range(len(items))))

    def draw(self, rng: random.Random) -> T:
        """Draw one item."""
        return rng.choices(self.items, cum_weights=self.weights)[0]

    def band(self, low: float, high: float) -> Sequence[T]:
        """Items whose relative rank lies in ``[low, high)``; 0 is the most frequent item."""
        n = len(self.items)
        return self.items[int(low * n) : int(high * n)]


@dataclass(frozen=True)
class Relation:
    """One kind of fact: how text states it, how a question asks for it, what its values are."""

    name: str
    subjects: str
    """``person``, ``job``, ``object``, ``animal`` or ``town``."""
    statements: tuple[str, ...]
    """Sentences with ``{s}`` (subject) and ``{v}`` (value)."""
    questions: tuple[str, ...]
    """Questions with ``{s}``; the answer is the value."""


@dataclass(frozen=True)
class Person:
    """A named person; ``facts`` maps relation names to values."""

    name: str
    pronoun: str
    facts: dict[str, str]


SHE = words(
    "Anna Mary Lucy Emma Clara Nora Alice Ruth Eva Rosa Julia Sofia Helen Grace Laura Olga Vera "
    "Ivy Flora Maya Tara Zoe Edith Hilda Irma Joan Karen Lena Mona Nina Paula Rita Sara Tessa "
    "Ursula Wanda Yvonne Abby Bella Carla Dora Elsa Freda Gina Hazel Ines Judy Kate Linda Megan "
    "Nadia Opal Penny Robin Sally Tilda Una Vicky Wendy Xenia Amber Beth Celia Daisy"
)
HE = words(
    "Ben Tom Jack Paul Mark Peter Adam Hugo Otto Felix Oscar Simon David Henry Louis Max Leo "
    "Carl Erik Frank Gus Hans Ivan Jonas Kurt Liam Milo Noah Omar Pablo Quinn Ralph Sam Theo "
    "Uwe Victor Walter Yann Zack Arthur Boris Cedric Dylan Edgar Fabian George Harry Isaac Joel "
    "Kevin Lukas Martin Nathan Oliver Patrick Roger Stefan Thomas Urban Vincent Wilfred Albert "
    "Bruno Conrad"
)
TOWNS = words(
    "Norwick Ashford Belmar Corby Dunmore Elmsted Farleigh Glenby Harwell Iverton Kelso "
    "Larkhill Merton Newbury Oakham Penrith Quorn Rothwell Selby Tarland Upton Varley Wexham "
    "Yarrow"
)
COUNTRIES = words("Arland Borania Cestia Dorvia Estmark Faluna")
RIVERS = words("Tame Orne Lys Mure Avel Brent Calder Dove Esk Fowey")
PETS = words("cat dog parrot rabbit turtle hamster pony goose lizard ferret mouse snail")
FOODS = words("soup rice fish cheese beans pasta cake plums honey bread eggs pears nuts stew")
HOBBIES = words(
    "chess painting fishing singing running knitting dancing sailing reading skating hiking "
    "drumming pottery juggling"
)
JOBS = words(
    "baker smith tailor farmer nurse painter teacher pilot cook miner sailor barber weaver "
    "potter carpenter gardener plumber librarian butcher florist mason tanner brewer hunter"
)
TOOLS = words(
    "oven anvil needle plough bandage brush chalk compass ladle pickaxe rope razor loom wheel "
    "saw spade wrench stamp cleaver vase trowel scraper barrel trap"
)
WORKPLACES = words(
    "bakery forge workshop barn clinic studio school airport kitchen mine harbour salon mill "
    "kiln yard garden cellar library market greenhouse quarry shed brewery forest"
)
OBJECTS = words(
    "spoon cup lamp chair box plate key bottle table basket hammer mirror bucket candle pillow "
    "kettle ladder clock mat drum bowl bell pen tray hat coin ring shelf jar fork bench flute "
    "doll curtain brick comb stool vane ball kite"
)
MATERIALS = words("wood iron glass clay wool wax")
ROOMS = words("attic hall pantry bedroom porch basement parlour bathroom study garage")
ANIMALS = words(
    "owl fox bear otter hare eagle frog deer wolf crab heron mole badger seal beaver crow toad "
    "lynx viper swan"
)
HABITATS = words("woods river meadow marsh cliff desert coast valley")
DIETS = words("grass insects roots berries worms seeds leaves shells")

_RELATIONS = """
person job
  {s} is a {v}. | {s} works as a {v}. | The job of {s} is that of a {v}.
  What is the job of {s}? | What does {s} work as? | Which job does {s} have?
  What is {s} by trade?
person town
  {s} lives in {v}. | The home of {s} is in {v}. | {s} has a house in {v}.
  Where does {s} live? | In which town does {s} live? | Where is the home of {s}?
  Which town is home to {s}?
person pet
  {s} has a {v} as a pet. | {s} keeps a {v}. | The pet of {s} is a {v}.
  Which pet does {s} have? | What animal does {s} keep? | What is the pet of {s}?
  Which animal belongs to {s}?
person food
  {s} likes to eat {v}. | {s} loves {v}. | The favourite food of {s} is {v}.
  What does {s} like to eat? | Which food does {s} love? | What is the favourite food of {s}?
  What would {s} choose to eat?
person hobby
  {s} enjoys {v}. | {s} spends the evenings with {v}. | The hobby of {s} is {v}.
  What does {s} enjoy? | Which hobby does {s} have? | What is the hobby of {s}?
  How does {s} spend the evenings?
person country
  {s} comes from {v}. | {s} was born in {v}. | The country of {s} is {v}.
  Where does {s} come from? | In which country was {s} born? | What is the country of {s}?
  Which country is {s} from?
job tool
  A {s} uses the {v}. | The {v} is the tool of a {s}. | A {s} works with the {v}.
  What does a {s} use? | Which tool does a {s} need? | What is the tool of a {s}?
  What does a {s} work with?
job workplace
  A {s} works in the {v}. | You find a {s} in the {v}. | The {v} needs a {s}.
  Where does a {s} work? | Where do you find a {s}? | Which place needs a {s}?
  What is the workplace of a {s}?
object material
  The {s} is made of {v}. | A {s} consists of {v}. | People make a {s} from {v}.
  What is the {s} made of? | What does a {s} consist of? | From what do people make a {s}?
  Which material is in a {s}?
object room
  The {s} stays in the {v}. | People keep the {s} in the {v}. | In the {v} is a {s}.
  Where does the {s} stay? | Where do people keep the {s}? | In which room is the {s}?
  Where would you look for a {s}?
animal habitat
  The {s} lives in the {v}. | You meet the {s} in the {v}. | The {v} is home to the {s}.
  Where does the {s} live? | Where do you meet the {s}? | What is the home of the {s}?
  Which place suits the {s}?
animal diet
  The {s} eats {v}. | The {s} feeds on {v}. | The food of the {s} is {v}.
  What does the {s} eat? | What does the {s} feed on? | What is the food of the {s}?
  Which food does the {s} need?
town river
  {s} lies on the river {v}. | The {v} flows through {s}. | The river of {s} is the {v}.
  On which river does {s} lie? | Which river flows through {s}? | What is the river of {s}?
  Which river would you see in {s}?
"""
"""A line with the kind of subject and the relation, then its statements and its questions."""


def _relations() -> tuple[Relation, ...]:
    made = []
    for block in re.split(r"\n(?=\S)", _RELATIONS.strip()):
        head, *lines = block.splitlines()
        subjects, name = head.split()
        texts = [text.strip() for line in lines for text in line.split("|")]
        statements = tuple(text for text in texts if not text.endswith("?"))
        questions = tuple(text for text in texts if text.endswith("?"))
        made.append(Relation(name, subjects, statements, questions))
    return tuple(made)


RELATIONS = _relations()

VALUES = {
    "job": JOBS,
    "town": TOWNS,
    "pet": PETS,
    "food": FOODS,
    "hobby": HOBBIES,
    "country": COUNTRIES,
    "tool": TOOLS,
    "workplace": WORKPLACES,
    "material": MATERIALS,
    "room": ROOMS,
    "habitat": HABITATS,
    "diet": DIETS,
    "river": RIVERS,
}
"""What each relation's value can be; distractors come from here."""

PERSON_RELATIONS = tuple(r for r in RELATIONS if r.subjects == "person")


@dataclass(frozen=True)
class World:
    """All entities with their facts; sequences are ordered by frequency rank."""

    people: Zipf[Person]
    things: Zipf[tuple[str, str]]
    """(kind, name) of every entity that is not a person."""
    facts: dict[tuple[str, str], str]
    """(relation, subject) to value, people included."""


@cache
def world() -> World:
    """Return the one world that ``WORLD_SEED`` describes."""
    rng = random.Random(WORLD_SEED)
    facts: dict[tuple[str, str], str] = {}
    pools = {"job": JOBS, "object": OBJECTS, "animal": ANIMALS, "town": TOWNS}
    for relation in RELATIONS:
        for rank, subject in enumerate(pools.get(relation.subjects, ())):
            values = VALUES[relation.name]
            # A job has a tool and a place of its own; other values are shared by chance.
            own = relation.subjects == "job"
            facts[relation.name, subject] = values[rank] if own else rng.choice(values)
    people = []
    for she, he in zip(SHE, HE, strict=True):
        for name, pronoun in ((she, "she"), (he, "he")):
            own_facts = {r.name: rng.choice(VALUES[r.name]) for r in PERSON_RELATIONS}
            people.append(Person(name, pronoun, own_facts))
            facts.update({(relation, name): value for relation, value in own_facts.items()})
    things = [(kind, name) for kind, names in pools.items() for name in names]
    rng.shuffle(things)
    return World(Zipf(people, 1.1), Zipf(things, 0.8), facts)
