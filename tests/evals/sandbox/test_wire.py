"""Plain data arrives as it was sent, and nothing else arrives at all."""

import json
import math
import random
import socket
from collections import Counter, OrderedDict, defaultdict, namedtuple
from contextlib import suppress
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lvf.evals.sandbox import wire

Point = namedtuple("Point", "x y")
Colour = IntEnum("Colour", "RED BLUE")
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**62, 2**62 - 1, -(2**62), 7**5000, -(7**5000)),
    *(0.0, -0.0, 0.1, 1e308, 5e-324, math.inf, -math.inf, 1 + 2j, complex(-0.0, math.inf)),
    *("", "naïve \ud800 \0 \U0001f600", b"", bytes(range(256)), "1" * 5000),
    *([], [[]], (), ((),), [(1, [2, {3}])], {1, "a", (2,)}, frozenset({frozenset()}), {}),
    *({1: "a", "1": (2,), (3, 4): {5: {6}}}, {"int": "ff"}, {"tuple": [1]}),
    *(Decimal("1.10"), Decimal("-Infinity"), Fraction(-3, 7), 3.0, [1, 1.0, True]),
]


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return dict, [(_types(key), _types(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [_types(item) for item in value]
    return type(value)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_value_arrives_equal_and_of_its_type(value: Any) -> None:
    arrived = wire.decode(wire.encode(value))
    assert arrived == value
    assert _types(arrived) == _types(value)
    assert repr(arrived) == repr(value) or isinstance(value, set | frozenset | int)


def test_nan_arrives_as_nan() -> None:
    assert math.isnan(wire.decode(wire.encode([math.nan]))[0])


@pytest.mark.parametrize(
    ("value", "by_value"),
    [
        (Point(1, 2), (1, 2)),
        (Colour.BLUE, 2),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (np.float64(0.1), 0.1),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (bytearray(b"x"), b"x"),
    ],
)
def test_subclasses_and_scalars_of_numpy_arrive_by_value(value: Any, by_value: Any) -> None:
    arrived = wire.decode(wire.encode(value))
    assert arrived == by_value
    assert _types(arrived) == _types(by_value)


@pytest.mark.parametrize(
    "value",
    [object(), iter([]), range(3), {}.keys(), len, int, np.zeros(3), lambda: 0, ValueError("x")],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_plain_data_is_not_sent(value: Any) -> None:
    with pytest.raises(wire.NotPlainError, match="no plain data"):
        wire.encode([value])


def test_nesting_is_limited() -> None:
    value: list[Any] = []
    for _ in range(wire.MAX_DEPTH):
        value = [value]
    assert wire.decode(wire.encode(value)) == value
    with pytest.raises(wire.NotPlainError, match="nested"):
        wire.encode([value])


@pytest.mark.parametrize(
    "content",
    [
        *("", "[", "[1] 2", "nul", "NaN", "[Infinity]", '{"a": 1}', '{"tuple": "abc"}', "{}"),
        *('{"int": 5}', '{"int": "0.5"}', '{"set": [[]]}', '{"dict": [1]}', '{"float": "1e3"}'),
        *('{"complex": [1]}', '{"tuple": [], "set": []}', '{"fraction": [1, 0]}', "9" * 10_000),
        *('{"decimal": "x"}', '{"bytes": "f"}', "[" * 100_000, '{"tuple":[' * 100_000, "\ufeff1"),
        *('{"__reduce__": []}', '{"py/object": "os.system"}', "__import__('os')", "1_000"),
    ],
    ids=lambda content: content[:20],
)
def test_malformed_bytes_break_the_rules(content: str) -> None:
    with pytest.raises(wire.BrokenRulesError):
        wire.decode(content.encode())


def test_random_bytes_give_plain_data_or_break_the_rules() -> None:
    rng = random.Random(0)
    whole = wire.encode(VALUES)
    for _ in range(2000):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] = rng.choice(b'[]{}",:0129-.eat\xff')
        with suppress(wire.BrokenRulesError):
            wire.encode(wire.decode(bytes(content)))  # only plain data can be encoded


def test_an_exception_has_the_name_of_its_nearest_built_in_class() -> None:
    class OwnError(KeyError):
        pass

    impostor = type("ValueError", (LookupError,), {})
    assert wire.exception_name(OwnError()) == "KeyError"
    assert wire.exception_name(impostor()) == "LookupError"
    assert wire.exception_name(json.JSONDecodeError("", "", 0)) == "ValueError"
    assert wire.exception_name(UnicodeDecodeError("ascii", b"", 0, 0, "")) == "UnicodeError"
    assert wire.exception_name(SystemExit()) == "SystemExit"


def test_messages_keep_their_bounds_however_they_are_cut() -> None:
    ours, theirs = socket.socketpair()
    content = b"".join(
        len(message).to_bytes(4, "big") + message for message in map(wire.encode, VALUES)
    )
    connection = wire.Connection(ours)
    arrived = []
    for start in range(0, len(content), 1000):
        theirs.sendall(content[start : start + 1000])
    while len(arrived) < len(VALUES):
        arrived.append(connection.receive())
    assert arrived == VALUES
    assert not connection.has_spoken()


def test_a_long_message_is_refused_before_it_is_read() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall((11).to_bytes(4, "big"))
    with pytest.raises(wire.BrokenRulesError, match="too long"):
        wire.Connection(ours, max_bytes=10).receive()


def test_traffic_is_limited_altogether() -> None:
    ours, theirs = socket.socketpair()
    connection, other = wire.Connection(ours, max_traffic=10), wire.Connection(theirs)
    for _ in range(2):
        other.send("abc")
        assert connection.receive() == "abc"
    other.send("abc")
    with pytest.raises(wire.BrokenRulesError, match="too long"):
        connection.receive()
