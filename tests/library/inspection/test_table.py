"""The printed tables, character by character, and what they leave out."""
# SPDX-License-Identifier: Apache-2.0

import io
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import rich.console

from optax_alphadecay.inspection import table
from optax_alphadecay.inspection.comparison import change, labels, trajectories
from optax_alphadecay.inspection.records import Inspection, ModuleRecord
from optax_alphadecay.inspection.tensors import CheckpointError, LeftOut
from tests.library.inspection.records_by_hand import module

MODULES = (
    module("b", alpha=2.0, layer=10, stable_rank=1.5),
    module("a", alpha=12.34567, layer=2, shape=(4, 8)),
    module("c", layer=None, traps=3),
)


def inspection(*modules: ModuleRecord, source: str = "m", left_out: tuple[LeftOut, ...] = ()) -> Inspection:
    return Inspection(source, modules, left_out, 0.1)


def printed(write: Callable[..., None], *arguments: Any) -> list[str]:
    console = rich.console.Console(file=io.StringIO(), width=60)
    write(console, *arguments)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def names_of(**view: Any) -> str:
    return "".join(one.name for one in table.rows(MODULES, table.View(**view)))


def test_a_table_has_its_first_column_on_the_left_and_others_on_the_right() -> None:
    view = table.View(columns="name, alpha,shape,layer,traps,alpha_fix_finger")
    assert printed(table.print_table, inspection(*MODULES), view) == [
        "module  alpha  shape  layer  traps  alpha FF",
        "b           2  4 x 6     10     -1         -",
        "a       12.35  4 x 8      2     -1         -",
        "c           -  4 x 6      -      3         -",
    ]
    assert printed(table.print_table, inspection(), view) == ["module  alpha  shape  layer  traps  alpha FF"]
    empty = printed(table.print_table, inspection(*MODULES[:1]), table.View(top=0))
    assert " ".join(empty) == "None of 1 modules is shown: --match, --where or --top leave all of them out."


def test_a_comparison_has_the_change_from_the_first_to_the_last() -> None:
    series = [
        inspection(module("x", alpha=alpha), *([module("y", alpha=3.0)] if at else []), source=f"run/{at}/m")
        for at, alpha in enumerate((2.0, 7.0, 2.5))
    ]
    assert printed(table.print_comparison, series, table.View()) == [
        "module  alpha 0  alpha 1  alpha 2  change",
        "x             2        7      2.5     0.5",
        "y             -        3        3       -",
    ]
    assert change([4.0, 9.0, 3.0]) == -1.0
    one = trajectories(series)
    assert list(one) == ["x", "y"] and one["x"] == [2, 7, 2.5] and math.isnan(one["y"][0])


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["only/this"], ["only/this"]),
        (["a/1/m", "a/2/m"], ["1", "2"]),
        (["a/1/x/m", "a/2/x/m"], ["1", "2"]),
        (["a/1/m", "a/2/n"], ["1/m", "2/n"]),
        (["a/b/m", "a/m"], ["b", "a/m"]),
        (["1", "2", "3"], ["1", "2", "3"]),
        (["x/1/y/m", "x/2/y/m", "x/2/z/m"], ["1/y", "2/y", "2/z"]),
        ([], []),
    ],
)
def test_labels_leave_out_what_paths_share(sources: list[str], expected: list[str]) -> None:
    assert labels([inspection(source=source) for source in sources]) == expected


def test_left_out_tensors_are_listed() -> None:
    left_out = (LeftOut("n", (3, 4), "float32", "a norm"), LeftOut("f", (), "file", "a state"))
    assert printed(table.print_left_out, inspection(left_out=left_out)) == [
        "left out  shape    dtype  because",
        "n         3 x 4  float32   a norm",
        "f                   file  a state",
    ]


def test_rows_are_sorted_by_number_and_what_is_not_known_is_last() -> None:
    assert names_of() == "bac"
    assert names_of(sort="alpha") == "bac" and names_of(sort="-alpha") == "abc"
    assert names_of(sort="layer") == "abc" and names_of(sort="-layer") == "bac"
    assert names_of(sort="name") == "abc" and names_of(sort="-name", top=2) == "cb"
    assert names_of(top=1) == "b" and names_of(match="[ab]", sort="name") == "ab"


@pytest.mark.parametrize(
    ("condition", "shown"),
    [
        ("alpha > 2", "a"),
        ("alpha >= 2", "ba"),
        ("alpha < 12.34567", "b"),
        ("alpha<=12.34567", "ba"),
        ("alpha = 2", "b"),
        ("alpha == 2.0", "b"),
        ("alpha != 2", "ac"),
        ("shape = 4x8", "a"),
        ("shape == 4 x 8", "a"),
        ("  name  !=  b ", "ac"),
        ("layer = -", "c"),
        ("stable rank > 1", "b"),
        ("traps > 2", "c"),
    ],
)
def test_conditions(condition: str, shown: str) -> None:
    assert names_of(where=(condition,)) == shown


def test_conditions_hold_together_and_mistakes_are_told() -> None:
    assert names_of(where=("alpha > 1", "layer < 5")) == "a"
    for view in (table.View(where=("alpha",)), table.View(sort="beta"), table.View(columns="name,")):
        with pytest.raises(CheckpointError):
            table.check(view)
    table.check(table.View())


def test_cells() -> None:
    assert [table.cell(value) for value in (None, math.nan, 1.23456, 12345.6, 7, "x", (4, 5, 6), math.inf)] == [
        "-", "-", "1.235", "1.235e+04", "7", "x", "4 x 5 x 6", "inf"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("alpha > 1,5", "alpha is a number, and '1,5' is none"),
        ("alpha <> 2", "'> 2' is none"),
        ("alpha > 2 and traps > 0", "give --where several times"),
        ("name > a", "name is no number: write = or !="),
        ("layer < -", "- is no number: write = or !="),
    ],
)
def test_conditions_that_cannot_be_compared_are_mistakes(condition: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(said)):
        table.check(table.View(where=(condition,)))


def test_what_is_not_known_is_neither_small_nor_large() -> None:
    """`c` has no layer and no alpha."""
    for column in ("layer", "alpha"):
        assert "c" not in names_of(where=(f"{column} < 1e9",)) + names_of(where=(f"{column} >= -1e9",))
    assert names_of(where=("alpha != -",)) == "ba"
