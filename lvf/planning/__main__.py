"""`python -m lvf.planning memory` prints the paper's memory tables, the others a page of docs/."""

import sys

from lvf.config.compose import exit_on_user_error
from lvf.errors import UserError


def main() -> None:
    """Command line.

    Raises:
        UserError: none of these words.
    """
    if sys.argv[1:] == ["memory"]:
        from lvf.planning.memory import main as print_memory

        print_memory()
    elif sys.argv[1:] == ["docs"]:
        from lvf.planning.docs import page

        print(page(), end="")
    elif sys.argv[1:] == ["scaling"]:
        from lvf.planning.scaling_page import page as scaling_page

        print(scaling_page(), end="")
    elif sys.argv[1:] == ["settings"]:
        from lvf.planning.settings_page import page as settings_page

        print(settings_page(), end="")
    else:
        raise UserError("python -m lvf.planning memory | docs | scaling | settings")


with exit_on_user_error():
    main()
