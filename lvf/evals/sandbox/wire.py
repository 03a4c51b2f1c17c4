"""Plain data over a socket, between processes of which one may be hostile.

A message is its length in four bytes and then JSON. What JSON lacks is an object of one key that
names a kind: `{"tuple": [1, 2]}`, `{"float": "nan"}`. Decoding can make exact built-in values
(and `Decimal` and `Fraction`) and nothing else, whatever the bytes are.
"""

import builtins
import json
import math
import select
import socket
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

REPLY_BYTES = 1 << 20
"""The longest message that is taken from a generated program."""
TRAFFIC_BYTES = 16 << 20
"""How much is taken from one generated program altogether."""
MAX_DEPTH = 100
SMALL_INT = 1 << 62  # beyond it, decimal digits would cost quadratic time


class NotPlainError(TypeError):
    """The value is no plain data, or it is nested too deeply."""


class BrokenRulesError(Exception):
    """The other side sent what is no message, too much, or out of turn."""


def _make_exception(name: str) -> bool:
    kind = getattr(builtins, name)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        return False
    try:
        kind("")
    except TypeError:  # UnicodeDecodeError and groups want more than a message
        return False
    return True


EXCEPTIONS: dict[str, type[BaseException]] = {
    name: getattr(builtins, name) for name in dir(builtins) if _make_exception(name)
}


def exception_name(error: BaseException) -> str:
    """Name of the nearest built-in class of an exception."""
    kinds = type(error).__mro__
    return next(kind.__name__ for kind in kinds if EXCEPTIONS.get(kind.__name__) is kind)


def plain(value: Any, depth: int = 0) -> Any:
    """What JSON can write, for plain data; subclasses count by value, numpy's scalars too.

    Raises:
        NotPlainError: the value is anything else, or nested more than `MAX_DEPTH` deep.
    """
    if depth > MAX_DEPTH:
        raise NotPlainError(f"nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -SMALL_INT < value < SMALL_INT else {"int": f"{int(value):x}"}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": float.__repr__(value)}
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [plain(item, depth + 1) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[plain(part, depth + 1) for part in pair] for pair in value.items()]}
    return _plain_rarity(value, depth)


def _plain_rarity(value: Any, depth: int) -> Any:
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [plain(value.real), plain(value.imag)]}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, Fraction):
        return {"fraction": [plain(value.numerator), plain(value.denominator)]}
    if type(value).__module__ == "numpy" and getattr(value, "size", 0) == 1:
        return plain(value.item(), depth + 1)
    raise NotPlainError(f"{type(value).__name__} is no plain data")


NONFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
KINDS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "int": (str, lambda digits: int(digits, 16)),
    "float": (str, NONFINITE.__getitem__),
    "tuple": (list, tuple),
    "set": (list, set),
    "frozenset": (list, frozenset),
    "dict": (list, dict),
    "bytes": (str, bytes.fromhex),
    "complex": (list, lambda parts: complex(parts[0], parts[1])),
    "decimal": (str, Decimal),
    "fraction": (list, lambda parts: Fraction(parts[0], parts[1])),
}


def _of_kind(pairs: list[tuple[str, Any]]) -> Any:
    ((kind, content),) = pairs
    wanted, make = KINDS[kind]
    if type(content) is not wanted:
        raise ValueError(f"{kind} of {type(content).__name__}")
    return make(content)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_of_kind, parse_constant=_refuse)
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)


def encode(value: Any) -> bytes:
    """Bytes of a value.

    Raises:
        NotPlainError: it is no plain data.
    """
    return _ENCODER.encode(plain(value)).encode()


def decode(content: bytes) -> Any:
    """The value that bytes stand for.

    Raises:
        BrokenRulesError: they stand for none.
    """
    try:
        return _DECODER.decode(content.decode())
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise BrokenRulesError(f"malformed message: {type(error).__name__}") from error


class Connection:
    """One end of a stream socket that carries messages.

    `deadline`, a moment of `time.monotonic`, ends every wait with a TimeoutError.
    """

    def __init__(
        self, sock: socket.socket, max_bytes: int = 1 << 31, max_traffic: int = 1 << 62
    ) -> None:
        self.sock = sock
        self.max_bytes = max_bytes
        self.traffic_left = max_traffic
        self.deadline = math.inf
        self._unread = b""
        self._arrival = select.poll()
        self._arrival.register(sock, select.POLLIN)

    def send(self, value: Any) -> None:
        """Send a value; NotPlainError where it is no plain data, OSError where nobody listens."""
        self.send_encoded(encode(value))

    def send_encoded(self, content: bytes) -> None:
        """Send what `encode` gave."""
        self._mind_deadline()
        self.sock.sendall(len(content).to_bytes(4, "big") + content)

    def receive(self) -> Any:
        """Wait for a value.

        Raises:
            BrokenRulesError: it is malformed or too long.
            EOFError: the other side has ended.
        """
        size = int.from_bytes(self._read(4), "big")
        self.traffic_left -= size
        if size > self.max_bytes or self.traffic_left < 0:
            raise BrokenRulesError(f"a message of {size} bytes is too long")
        return decode(self._read(size))

    def has_spoken(self) -> bool:
        """Whether something waits to be read, or the other side has ended."""
        return bool(self._unread or self._arrival.poll(0))

    def _read(self, size: int) -> bytes:
        parts = [self._unread]
        missing = size - len(self._unread)
        while missing > 0:
            self._mind_deadline()
            parts.append(self.sock.recv(1 << 14))
            if not parts[-1]:
                raise EOFError
            missing -= len(parts[-1])
        content = b"".join(parts)
        self._unread = content[size:]
        return content[:size]

    def _mind_deadline(self) -> None:
        if self.deadline < math.inf:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
