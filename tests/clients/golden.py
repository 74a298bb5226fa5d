"""Writes the golden tables, what every parameter of every client is taken for: `python -m tests.clients.golden`.

Those of clients that are not installed stay as they are. Read the change before you commit it.
"""
# SPDX-License-Identifier: Apache-2.0

import argparse
import importlib.metadata
import pathlib

import optax_alphadecay as oad
from tests.clients.parameters import CLIENTS, Client

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "modules"
DISTRIBUTIONS = {"tunix": "google-tunix"}


def heading(client: Client) -> str:
    """What the parameters are, with versions, and the rule."""
    packages = [DISTRIBUTIONS.get(package, package) for package in client.packages or ("flax",)]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return f"# {client.params.__doc__}\n# {client.source or versions}\n# modules={client.code}\n"


def main() -> None:
    """Writes the tables of the clients that are named, or of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("client", nargs="*", choices=[[], *CLIENTS], metavar="client", help=", ".join(CLIENTS))
    for name in parser.parse_args().client or CLIENTS:
        client = CLIENTS[name]
        try:
            params = client.params()
        except ModuleNotFoundError as error:
            print(f"{name}: not made, {error}")
            continue
        path = FOLDER / f"{name}.txt"
        path.write_text(heading(client) + oad.explain(params, client.rule) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
