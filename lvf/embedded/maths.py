"""Word problems with worked solutions: the maths target domain, and its easy forms for the base."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from lvf.embedded.world import HE, SHE, split_of, words

THINGS = words(
    "apples pears plums eggs coins stamps cards shells nuts books pens beads marbles rolls "
    "tickets buttons stones candles"
)
HOLDERS = words("bags boxes baskets jars")
NAMES = [(name, "she") for name in SHE[:24]] + [(name, "he") for name in HE[:24]]
STARTS = ("{n} has {k} {t}.", "{n} starts with {k} {t}.", "There are {k} {t} with {n}.")
GAINS = ("{p} buys {k} more.", "Then {p} finds {k} {t}.", "A friend brings {k} more {t}.")
LOSSES = ("{p} gives away {k} {t}.", "Then {p} loses {k}.", "{p} sells {k} of them.")
TIMES = (
    "The next day there are {k} times as many.",
    "A trick turns them into {k} times as many {t}.",
)
SHARES = (
    "{p} shares them equally with others, so that {k} people have the same.",
    "{p} splits them into {k} equal parts and keeps one part.",
)
ALL_CHANGES = range(2, 41)
ROUND_CHANGES = range(5, 41, 5)
"""What the target's problems gain or lose at a time; sums are not to be their hard part."""
LARGEST = 150
"""No number in a problem or its solution exceeds this."""


@dataclass
class Problem:
    """A problem under construction; ``amount`` is what its person has at the moment."""

    name: str
    pronoun: str
    thing: str
    changes: Sequence[int]
    """How many things may be gained or lost at a time, in ascending order."""
    amount: int = 0
    sentences: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    ending: str = ""
    form: list[str] = field(default_factory=list)
    """Names and numbers of the steps: what the problem is about, apart from wording."""

    def step(self, form: str, sentence: str, expression: str, result: int) -> None:
        """Add one sentence and the line of the solution that it asks for."""
        self.form.append(f"{form}:{expression}")
        self.sentences.append(sentence)
        self.lines.append(f"{expression} = {result}")
        self.amount = result

    @property
    def question(self) -> str:
        """The problem as text."""
        return " ".join([*self.sentences, self.ending])

    @property
    def solution(self) -> str:
        """One line a step, then the answer in GSM8K's form."""
        return "\n".join([*self.lines, f"#### {self.amount}"])

    @property
    def key(self) -> str:
        """What the problem is about: kinds of steps and all numbers; wording does not count."""
        return "maths|" + "|".join(self.form)


def _gain(problem: Problem, rng: random.Random) -> bool:
    more = rng.choice(problem.changes)
    text = rng.choice(GAINS)
    total = problem.amount + more
    if total > LARGEST:
        return False
    sentence = text.format(p=problem.pronoun, k=more, t=problem.thing)
    expression = f"{problem.amount} + {more}"
    problem.step("gain", sentence[0].upper() + sentence[1:], expression, total)
    return True


def _loss(problem: Problem, rng: random.Random) -> bool:
    if problem.amount < 6:  # Small remainders would make the next steps trivial.
        return False
    possible = [change for change in problem.changes if change <= problem.amount - 2]
    if not possible:
        return False
    less = rng.choice(possible)
    sentence = rng.choice(LOSSES).format(p=problem.pronoun, k=less, t=problem.thing)
    expression = f"{problem.amount} - {less}"
    problem.step("loss", sentence[0].upper() + sentence[1:], expression, problem.amount - less)
    return True


def _times(problem: Problem, rng: random.Random) -> bool:
    factor = rng.randint(2, 5)
    total = problem.amount * factor
    if problem.amount < 2 or total > LARGEST:
        return False
    sentence = rng.choice(TIMES).format(k=factor, t=problem.thing)
    problem.step("times", sentence, f"{problem.amount} * {factor}", total)
    return True


def _share(problem: Problem, rng: random.Random) -> bool:
    parts = [k for k in (2, 3, 4, 5) if problem.amount % k == 0 and problem.amount // k > 1]
    if not parts:
        return False
    part = rng.choice(parts)
    sentence = rng.choice(SHARES).format(p=problem.pronoun.capitalize(), k=part)
    problem.step("share", sentence, f"{problem.amount} / {part}", problem.amount // part)
    return True


STEPS: tuple[Callable[[Problem, random.Random], bool], ...] = (_gain, _loss, _times, _share)
ENDINGS = (
    "How many {t} does {n} have now?",
    "How many {t} are left with {n} in the end?",
    "What is the number of {t} that {n} has at last?",
)


def _start(rng: random.Random, changes: Sequence[int]) -> Problem:
    packed = rng.random() < 0.35
    name, pronoun = rng.choice(NAMES)
    thing = rng.choice(THINGS)
    problem = Problem(name, pronoun, thing, changes)
    if packed:
        holders, each = rng.randint(2, 9), rng.randint(2, 9)
        sentence = f"{name} has {holders} {rng.choice(HOLDERS)} with {each} {thing} in each."
        problem.step("packed", sentence, f"{holders} * {each}", holders * each)
    else:
        problem.amount = rng.randint(5, 60)
        text = rng.choice(STARTS)
        problem.sentences.append(text.format(n=name, k=problem.amount, t=thing))
    problem.ending = rng.choice(ENDINGS).format(t=thing, n=name)
    return problem


def make_problem(rng: random.Random, steps: int, changes: Sequence[int] = ALL_CHANGES) -> Problem:
    """Make a problem whose solution has exactly ``steps`` lines before the answer.

    ``changes`` are the numbers of things that may be gained or lost at a time.
    """
    problem = _start(rng, changes)
    while len(problem.lines) < steps:
        rng.choice(STEPS)(problem, rng)
    return problem


def problems(split: str, seed: int | str, steps: tuple[int, ...] = (2, 3, 4)) -> Iterator[Problem]:
    """Yield problems of one split without end, ``steps`` lines long; no key comes twice."""
    rng = random.Random(f"maths|{split}|{seed}|{steps}")
    seen: set[str] = set()
    while True:
        problem = make_problem(rng, rng.choice(steps), ROUND_CHANGES)
        if problem.key not in seen and split_of(problem.key) == split:
            seen.add(problem.key)
            yield problem


def running_text(rng: random.Random, some: list[Problem]) -> str:
    """Return several problems as one document of continued pre-training: a book or a forum page."""
    if rng.random() < 0.5:
        pages = [f"Question: {p.question}\nAnswer: {p.solution}" for p in some]
    else:
        pages = [
            f"Example {number}. {p.question}\n"
            f"Solution. {'; '.join(p.lines)}. The result is {p.amount}."
            for number, p in enumerate(some, 1)
        ]
    return "\n\n".join(pages)


def easy_document(rng: random.Random) -> str:
    """Return a problem with its solution in the target's form: one step, one in ten times two."""
    while True:
        problem = make_problem(rng, 2 if rng.random() < 0.1 else 1)
        if split_of(problem.key) == "train":
            return f"Question: {problem.question}\nAnswer: {problem.solution}"


def statement_document(rng: random.Random) -> str:
    """Return the wording of a long problem, without question or solution (for its vocabulary)."""
    while True:
        problem = make_problem(rng, 3)
        if split_of(problem.key) == "train":
            return " ".join(problem.sentences)


def arithmetic_document(rng: random.Random) -> str:
    """Return a few sums, differences, products and quotients, one a line."""
    lines = []
    for _ in range(rng.randint(3, 8)):
        a, b, x = rng.randint(2, 110), rng.randint(2, 40), rng.randint(2, LARGEST // 2)
        k = rng.randint(2, min(9, LARGEST // x))
        forms = (
            f"{a} + {b} = {a + b}",
            f"{a + b} - {b} = {a}",
            f"{x} * {k} = {x * k}",
            f"{x * k} / {k} = {x}",
        )
        lines.append(rng.choice(forms))
    return "\n".join(lines)
