"""`blm keys`: make, list and take back the keys of a server.

blm keys new NAME [--file keys.txt]        prints the key, once; the file holds its digest alone
blm keys list | remove NAME                a running server follows within seconds
"""

import argparse
from pathlib import Path

from blm.model.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm keys`."""
    parser.add_argument("action", choices=("new", "list", "remove"), help="what to do")
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="whose key: a person, a robot, a service")
    parser.add_argument("--file", type=Path, default=Path("keys.txt"), help="the server's guard.key_file (%(default)s)")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Do it. UserError for a name that is missing, in use or unknown."""
    from blm.serve.guard.keys import add_key, read_keys, remove_key

    file: Path = arguments.file.expanduser()
    if arguments.action == "list":
        print("\n".join(read_keys(file)) or f"{file} has no keys")
        return 0
    if not arguments.name:
        raise UserError(f"whose key? write `blm keys {arguments.action} NAME`")
    if arguments.action == "new":
        print(add_key(file, arguments.name))
    else:
        remove_key(file, arguments.name)
        print(f"removed {arguments.name} from {file}")
    return 0
