"""Small Python functions made of two operations: the code target domain, and its easy forms.

A function's identity is its behaviour on fixed probe inputs, so two spellings of the same function
always belong to the same split.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from lvf.embedded.world import split_of

LIST, STRING, NUMBER = "xs", "s", "n"
"""The three kinds of value, each called by the one variable name that it has everywhere."""

KIND_WORDS = {LIST: "the list xs", STRING: "the string s", NUMBER: "the number n"}


@dataclass(frozen=True)
class Operation:
    """One step: its name, how a docstring says it, its expression, its input and output kind."""

    name: str
    phrases: tuple[str, ...]
    expression: str
    takes: str
    gives: str


_OPERATIONS = """
add     xs xs 1-9 [x + {k} for x in xs]
    add {k} to each number | increase each number by {k}
sub     xs xs 1-9 [x - {k} for x in xs]
    subtract {k} from each number | decrease each number by {k}
mul     xs xs 2-9 [x * {k} for x in xs]
    multiply each number by {k} | make each number {k} times as large
mod     xs xs 2-9 [x % {k} for x in xs]
    replace each number by its remainder after division by {k} | take each number modulo {k}
above   xs xs 1-9 [x for x in xs if x > {k}]
    keep the numbers above {k} | remove the numbers that are not above {k}
below   xs xs 2-9 [x for x in xs if x < {k}]
    keep the numbers below {k} | remove the numbers that are not below {k}
first   xs xs 2-4 xs[:{k}]
    take the first {k} numbers | keep only the first {k} numbers
last    xs xs 2-4 xs[-{k}:]
    take the last {k} numbers | keep only the last {k} numbers
drop    xs xs 1-3 xs[{k}:]
    drop the first {k} numbers | leave out the first {k} numbers
square  xs xs -   [x * x for x in xs]
    square each number | multiply each number by itself
negate  xs xs -   [-x for x in xs]
    change the sign of each number | negate each number
even    xs xs -   [x for x in xs if x % 2 == 0]
    keep the even numbers | remove the odd numbers
odd     xs xs -   [x for x in xs if x % 2 == 1]
    keep the odd numbers | remove the even numbers
reverse xs xs -   xs[::-1]
    reverse the order | put the numbers in reverse order
sort    xs xs -   sorted(xs)
    sort the numbers | put the smallest numbers first
down    xs xs -   sorted(xs, reverse=True)
    sort the numbers downwards | put the largest numbers first
unique  xs xs -   list(dict.fromkeys(xs))
    remove repeated numbers | keep each number only once
sum     xs n  -   sum(xs)
    return the sum | add up all numbers
max     xs n  -   max(xs, default=0)
    return the largest number or 0 | find the maximum, or 0
min     xs n  -   min(xs, default=0)
    return the smallest number or 0 | find the minimum, or 0
len     xs n  -   len(xs)
    count the numbers | return how many numbers there are
count   xs n  1-9 xs.count({k})
    count how often {k} occurs | return the number of times that {k} occurs
upper   s  s  -   s.upper()
    make all letters upper case | turn the letters into capitals
turn    s  s  -   s[::-1]
    reverse the letters | write the letters backwards
head    s  s  2-5 s[:{k}]
    take the first {k} letters | keep only the first {k} letters
tail    s  s  2-5 s[-{k}:]
    take the last {k} letters | keep only the last {k} letters
skip    s  s  1-3 s[{k}:]
    drop the first {k} letters | leave out the first {k} letters
repeat  s  s  2-4 s * {k}
    repeat it {k} times | write it {k} times in a row
letters s  s  -   ''.join(sorted(s))
    sort the letters | put the letters in order
stars   s  s  -   s.replace('a', '*')
    replace each a by a star | put a star for each a
strip   s  s  -   s.replace('e', '')
    remove each letter e | leave out each letter e
size    s  n  -   len(s)
    count the letters | return how many letters there are
vowels  s  n  -   s.count('a')
    count the letter a | return how often the letter a occurs
plus    n  n  1-9 n + {k}
    add {k} | increase it by {k}
minus   n  n  1-9 n - {k}
    subtract {k} | decrease it by {k}
by      n  n  2-9 n * {k}
    multiply it by {k} | make it {k} times as large
rest    n  n  2-9 n % {k}
    take the remainder after division by {k} | take it modulo {k}
power   n  n  -   n * n
    square it | multiply it by itself
"""
"""Name, kind taken, kind given, range of the constant k, expression; then two ways to say it."""


@cache
def operations() -> tuple[Operation, ...]:
    """Return every operation with its constant filled in."""
    made = []
    lines = _OPERATIONS.strip().splitlines()
    for head, words in zip(lines[::2], lines[1::2], strict=True):
        name, takes, gives, constants, expression = head.split(maxsplit=4)
        low, _, high = constants.partition("-")
        for k in range(int(low or 0), int(high or 0) + 1):
            phrases = tuple(text.strip().format(k=k) for text in words.split("|"))
            made.append(Operation(name, phrases, expression.format(k=k), takes, gives))
    return tuple(made)


def _values(kind: str, rng: random.Random) -> Any:
    """Draw one input of a kind."""
    if kind == LIST:
        return [rng.randint(0, 12) for _ in range(rng.randint(3, 6))]
    if kind == NUMBER:
        return rng.randint(0, 30)
    return "".join(rng.choice("aaabcdeeeilmnoprst") for _ in range(rng.randint(4, 8)))


@cache
def _probes(kind: str) -> tuple[Any, ...]:
    rng = random.Random(f"probes|{kind}")
    return tuple(_values(kind, rng) for _ in range(24))


@dataclass(frozen=True)
class Function:
    """One or two operations in a row."""

    steps: tuple[Operation, ...]

    @property
    def takes(self) -> str:
        """The kind (and variable name) of the argument."""
        return self.steps[0].takes

    @property
    def name(self) -> str:
        """The function's name in a file: the names of its steps."""
        return "_".join(step.name for step in self.steps)

    @property
    def body(self) -> str:
        """The indented body, which ends in a newline."""
        lines = [f"{step.gives} = {step.expression}" for step in self.steps[:-1]]
        return "".join(f"    {line}\n" for line in [*lines, f"return {self.steps[-1].expression}"])

    def __call__(self, value: Any) -> Any:
        """Apply the steps to a value of this module's own making."""
        for step in self.steps:
            value = eval(_compiled(step.expression), {step.takes: value})
        return value

    @property
    def behaviour(self) -> str:
        """The outputs on the fixed probes: equal for functions that compute the same."""
        return f"code|{self.takes}|" + repr([self(value) for value in _probes(self.takes)])


@cache
def _compiled(expression: str) -> Any:
    return compile(expression, expression, "eval")


@cache
def _easy() -> tuple[tuple[Function, ...], frozenset[str]]:
    """Functions of one step, and the behaviours that no function of two steps may have."""
    singles = tuple(Function((operation,)) for operation in operations())
    identities = {f"code|{kind}|" + repr(list(_probes(kind))) for kind in KIND_WORDS}
    return singles, frozenset({single.behaviour for single in singles} | identities)


@cache
def _two_steps() -> dict[str, list[Function]]:
    """Every function of two steps that one step could not compute, by the split it belongs to."""
    found: dict[str, list[Function]] = {}
    trivial = _easy()[1]
    for first in operations():
        for second in operations():
            if first.gives == second.takes:
                function = Function((first, second))
                varied = len({repr(function(value)) for value in _probes(first.takes)[:12]}) > 3
                if varied and (behaviour := function.behaviour) not in trivial:
                    found.setdefault(split_of(behaviour), []).append(function)
    return found


def functions(split: str) -> list[Function]:
    """Return one split's functions of two steps; two that behave alike are in the same split."""
    return _two_steps()[split]


def _opening(function: Function, rng: random.Random) -> str:
    """Header and first docstring line."""
    phrases = [rng.choice(step.phrases) for step in function.steps]
    text = f"With {KIND_WORDS[function.takes]}: {', then '.join(phrases)}."
    return f'def {function.name}({function.takes}):\n    """{text}\n'


def prompt(function: Function, rng: random.Random) -> str:
    """Return header and docstring with two examples, as HumanEval's ``prompt`` has them."""
    examples = []
    opening = _opening(function, rng)
    for _ in range(2):
        value = _values(function.takes, rng)
        examples.append(f"    >>> {function.name}({value!r})\n    {function(value)!r}\n")
    return f'{opening}\n{"".join(examples)}    """\n'


def check(function: Function, rng: random.Random) -> str:
    """Return HumanEval's ``test``: six assertions on fresh inputs."""
    lines = []
    for _ in range(6):
        value = _values(function.takes, rng)
        lines.append(f"    assert candidate({value!r}) == {function(value)!r}\n")
    return "\n\ndef check(candidate):\n" + "".join(lines)


def draw_functions(split: str, seed: int | str) -> Iterator[Function]:
    """Yield functions without end: six of ten on lists, three on strings, one on numbers."""
    rng = random.Random(f"code|{split}|{seed}")
    pools = {kind: [f for f in functions(split) if f.takes == kind] for kind in KIND_WORDS}
    while True:
        yield rng.choice(pools[rng.choices((LIST, STRING, NUMBER), (6, 3, 1))[0]])


def module_text(rng: random.Random, some: list[Function]) -> str:
    """Return several functions as one file."""
    return "\n\n".join(prompt(function, rng) + function.body for function in some)


def easy_document(rng: random.Random) -> str:
    """Return a function in the target's form: of one step, one in twenty times of two."""
    function = rng.choice(functions("train") if rng.random() < 0.05 else _easy()[0])
    return prompt(function, rng) + function.body


def phrase_document(rng: random.Random) -> str:
    """Return the target's vocabulary: expressions in words, or the head of a training function."""
    if rng.random() < 0.4:
        return _opening(rng.choice(functions("train")), rng) + '    """\n'
    some = rng.sample(operations(), 3)
    lines = [f"{step.gives} = {step.expression}  # {rng.choice(step.phrases)}" for step in some]
    return "\n".join(lines)


def copy_document(rng: random.Random) -> str:
    """Return a short sequence written twice: practice for copying from the context."""
    values = _values(rng.choice((LIST, STRING)), rng)
    if rng.random() < 0.5:
        values = [rng.randint(0, 150) for _ in range(rng.randint(3, 8))]
    first, second = ("Copy ", "") if rng.random() < 0.5 else ("a = ", "b = ")
    return f"{first}{values!r}\n{second}{values!r}"
