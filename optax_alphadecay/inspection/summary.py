"""An inspection in plain words."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections import Counter
from collections.abc import Sequence

from optax_alphadecay.inspection.records import Inspection, ModuleRecord
from optax_alphadecay.inspection.tensors import FILE

_NAMED = 3
# Of 1,000 Gaussian matrices one has an alpha further below `random_alpha`, in units of (random_alpha - 1) / (size of
# the tail). Simulated for 50 to 256 eigenvalues and sides of 1 : 1 to 1 : 100: 2.8 to 3.8.
_MARGIN = 4.0


def sentences(inspection: Inspection) -> list[str]:
    """Say what stands out: which modules are light-tailed, which have traps, what AlphaDecay would do.

    Args:
      inspection: what :func:`inspect` gives.

    Returns:
      A few sentences, each true by itself.
    """
    modules = inspection.modules
    if not modules:
        hints = (*_smaller(inspection), *_axes(inspection), *unmatched(inspection))
        return ["No module was found.", *_left_out(inspection), *hints]
    told = (*_alphas(modules), *_random(modules), *_traps(modules), *_decays(inspection))
    return [*told, *_left_out(inspection), *_axes(inspection), *unmatched(inspection)]


def _alphas(modules: Sequence[ModuleRecord]) -> list[str]:
    measured = sorted((module for module in modules if math.isfinite(module.alpha)), key=lambda module: module.alpha)
    said = [_count(len(modules), "module was", "modules were") + " measured."]
    if len(measured) == 1:
        said.append(f"The alpha of {measured[0].name} is {measured[0].alpha:.2f}.")
    elif measured:
        first, last = measured[0], measured[-1]
        said.append(
            f"Alpha goes from {first.alpha:.2f} ({first.name}, the heaviest tail) to {last.alpha:.2f} ({last.name}, the"
            " lightest)."
        )
    if failed := [module for module in modules if not math.isfinite(module.alpha)]:
        has = "has" if len(failed) == 1 else "have"
        said.append(f"{_names(failed)} {has} no alpha: the spectrum is constant, nearly of low rank, or not finite.")
    return said


def _random(modules: Sequence[ModuleRecord]) -> list[str]:
    compared = [module for module in modules if math.isfinite(module.alpha - module.random_alpha)]
    light = [module for module in compared if not _is_heavy(module)]
    if not compared:
        return []
    if not light:
        return ["Every tail is heavy: heavier than in 999 of 1,000 random matrices of the same shape."]
    has = "has" if len(light) == 1 else "have"
    heavy = len(compared) - len(light)
    others = (
        "" if not heavy else " The other has a heavy one." if heavy == 1 else f" The other {heavy} have a heavy one."
    )
    return [
        f"{len(light)} of {_count(len(compared), 'module', 'modules')} {has} a light tail, no heavier than a random"
        f" matrix of the same shape can have: {_names(light)}.{others}"
    ]


def _is_heavy(module: ModuleRecord) -> bool:
    """Whether alpha is below those of random matrices of this shape by more than they scatter."""
    in_tail = len(module.eigenvalues) - len(module.eigenvalues) // 2
    return module.alpha < module.random_alpha - _MARGIN * (module.random_alpha - 1) / in_tail


def _traps(modules: Sequence[ModuleRecord]) -> list[str]:
    tested = [module for module in modules if module.traps >= 0]
    trapped = [module for module in tested if module.traps > 0]
    if not tested:
        return []
    if not trapped:
        return ["No module has correlation traps."]
    have = "has" if len(trapped) == 1 else "have"
    return [
        f"{len(trapped)} {have} correlation traps, large eigenvalues that stay when the entries are shuffled: they come"
        f" from single large entries, or from a mean that is not 0: {_names(trapped)}."
    ]


def _decays(inspection: Inspection) -> list[str]:
    given = sorted((module for module in inspection if math.isfinite(module.ratio)), key=lambda module: module.ratio)
    if len(given) == 1 and given[0].ratio == 1:
        return [f"{given[0].name} keeps the base rate: AlphaDecay compares alphas, and no other module has one."]
    if not given:
        return []
    least, most = given[0], given[-1]
    mean = sum(module.ratio for module in given) / len(given)
    return [
        f"At a base rate of {inspection.weight_decay:g}, AlphaDecay would give {most.name} the most decay"
        f" ({most.decay:.3g}) and {least.name} the least ({least.decay:.3g}); the mean over modules is {mean:.2f} times"
        " the base rate."
    ]


def _left_out(inspection: Inspection) -> list[str]:
    said = []
    for one, many, is_file in (("tensor was", "tensors were", False), ("file was", "files were", True)):
        reasons = Counter(left.reason for left in inspection.left_out if (left.dtype == FILE) is is_file)
        if reasons:
            parts = [f"{count} ({reason})" for reason, count in reasons.most_common()]
            said.append(f"{_count(reasons.total(), one, many)} left out: {'; '.join(parts)}.")
    return said


def _smaller(inspection: Inspection) -> list[str]:
    if not any("fewer than min_eigenvalues" in left.reason for left in inspection.left_out):
        return []
    return ["To measure smaller matrices: --min-eigenvalues 8 (in Python min_eigenvalues= of block_matrices)."]


def _axes(inspection: Inspection) -> list[str]:
    if not any("axes" in left.reason and "fewer than" not in left.reason for left in inspection.left_out):
        return []
    return [
        "To measure tensors whose axes are not known: --stacked layers, with the name of the part of the model whose"
        " tensors hold all layers; or --axes REGEX=IN:OUT (in Python stacked= and axes= of block_matrices)."
    ]


def unmatched(inspection: Inspection) -> list[str]:
    """Say which patterns and names fit no tensor."""
    if not inspection.unmatched:
        return []
    where = "the table has the names of modules, and --left-out those of all else"
    return [f"No tensor has a name that fits {', '.join(inspection.unmatched)}; {where}."]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _names(modules: Sequence[ModuleRecord]) -> str:
    shown = ", ".join(module.name for module in modules[:_NAMED])
    return shown + (f" and {len(modules) - _NAMED} more" if len(modules) > _NAMED else "")
