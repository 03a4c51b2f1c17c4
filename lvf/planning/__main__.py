"""`python -m lvf.planning memory` prints the paper's memory tables, `docs` the page of the grid."""

import sys

from lvf.compose import speaking_to_the_user
from lvf.errors import UserError


def main() -> None:
    """Command line.

    Raises:
        UserError: neither of the two.
    """
    if sys.argv[1:] == ["memory"]:
        from lvf.planning.memory import main as print_memory

        print_memory()
    elif sys.argv[1:] == ["docs"]:
        from lvf.planning.docs import page

        print(page(), end="")
    else:
        raise UserError("python -m lvf.planning memory | docs")


with speaking_to_the_user():
    main()
