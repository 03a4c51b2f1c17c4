"""`python -m lvf.planning memory` prints the paper's memory tables, the others a page of docs/."""

import sys
from importlib import import_module

from lvf.config.compose import exit_on_user_error
from lvf.errors import UserError

PAGES = {"docs": "docs", "scaling": "scaling_page", "settings": "settings_page"}
"""Module of each page."""


def main() -> None:
    """Command line.

    Raises:
        UserError: none of these words.
    """
    word = " ".join(sys.argv[1:])
    if word == "memory":
        import_module("lvf.planning.memory").main()
    elif word in PAGES:
        print(import_module(f"lvf.planning.{PAGES[word]}").page(), end="")
    else:
        raise UserError("python -m lvf.planning memory | docs | scaling | settings")


with exit_on_user_error():
    main()
