"""What ready rules take the parameters of real models for: golden tables, made by `python -m tests.clients.golden`."""
# SPDX-License-Identifier: Apache-2.0

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import optax_alphadecay as oad
from tests.clients import golden, with_their_code
from tests.clients.parameters import CLIENTS

NAMED = {"levanter_llama", "levanter_gpt2"}
"""Clients whose layers name their axes, which a table does not hold."""
NOT_MODULES = ("embed", "wte", "wpe", "head", "classifier", "logits", "norm", "ln_", "bias", "scale", "gate/", "router")
"""No leaf whose name has one of these is a module of these models, and every other one of two axes and more is."""


def table_of(name: str) -> str:
    text = (golden.FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")).rstrip()


def leaves_of(table: str) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters that a table lists, in its order."""
    rows = [line.split("  ") for line in table.splitlines()[1:] if line[-7:] != "leaves."]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return collections.OrderedDict(
        (name, jax.ShapeDtypeStruct(tuple(map(int, shape.split(" x "))), jnp.dtype(dtype)))
        for name, shape, dtype, *_ in cells
    )


def test_every_client_has_a_table() -> None:
    assert {path.stem for path in golden.FOLDER.glob("*.txt")} == CLIENTS.keys()


@pytest.mark.parametrize("name", [name for name in CLIENTS if name not in NAMED])
def test_the_table_follows_from_names_and_shapes(name: str) -> None:
    table = table_of(name)
    assert oad.explain(leaves_of(table), CLIENTS[name].rule) == table


@pytest.mark.parametrize("name", CLIENTS)
def test_the_table_has_every_matrix_of_the_blocks_and_nothing_else(name: str) -> None:
    """By words that are in no name of a block matrix of these models, and by the number of weights."""
    lines = table_of(name).splitlines()
    for line, (leaf, array) in zip(lines[1:], leaves_of("\n".join(lines)).items(), strict=False):
        is_matrix = array.ndim > 1 and not any(word in leaf for word in NOT_MODULES)
        assert (" module" in line.partition("  ")[2]) == is_matrix, leaf
    rule = CLIENTS[name].rule
    for record in oad.leaf_records(leaves_of("\n".join(lines)), rule) if name not in NAMED else []:
        weights = sum(math.prod(stack.shape) for stack in record.stacks)
        assert weights in (0, math.prod(record.shape)), f"{record.name}: each weight is in one module"


@with_their_code
@pytest.mark.clients
@pytest.mark.parametrize("name", CLIENTS)
def test_the_table_is_that_of_the_real_parameters(name: str) -> None:
    client = CLIENTS[name]
    for package in client.packages:
        pytest.importorskip(package, reason=f"{package} is not installed: see `make test-clients`")
    try:
        params: Any = client.params()
    except ModuleNotFoundError as error:
        # Transformers 5 has no Flax models any more. Their recorded tables are tested above, with any version.
        pytest.skip(f"{client.params.__doc__} is not in the installed version: {error}")
    assert oad.explain(params, client.rule) == table_of(name)
