"""An inspection in plain words."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections import Counter
from collections.abc import Sequence

from optax_alphadecay.inspection.records import Inspection, ModuleRecord

_NAMED = 3


def sentences(inspection: Inspection) -> list[str]:
    """Say what stands out: which modules are light-tailed, which have traps, what AlphaDecay would do.

    Args:
      inspection: what :func:`inspect` gives.

    Returns:
      A few sentences, each true by itself.
    """
    modules = inspection.modules
    if not modules:
        return ["No module was found.", *_left_out(inspection)]
    return [*_alphas(modules), *_random(modules), *_traps(modules), *_decays(inspection), *_left_out(inspection)]


def _alphas(modules: Sequence[ModuleRecord]) -> list[str]:
    measured = sorted((module for module in modules if math.isfinite(module.alpha)), key=lambda module: module.alpha)
    said = [_count(len(modules), "module was", "modules were") + " measured."]
    if measured:
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
    light = [module for module in compared if module.alpha >= module.random_alpha]
    if not compared:
        return []
    if not light:
        return ["Every tail is heavier than that of a random matrix of the same shape."]
    have = "has" if len(light) == 1 else "have"
    return [
        f"Of {len(compared)} modules, {len(light)} {have} a light tail, no heavier than that of a random matrix of the"
        f" same shape: {_names(light)}."
    ]


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
    reasons = Counter(tensor.reason for tensor in inspection.left_out)
    if not reasons:
        return []
    parts = [f"{count} ({reason})" for reason, count in reasons.most_common()]
    return [f"{_count(len(inspection.left_out), 'tensor was', 'tensors were')} left out: {'; '.join(parts)}."]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _names(modules: Sequence[ModuleRecord]) -> str:
    shown = ", ".join(module.name for module in modules[:_NAMED])
    return shown + (f" and {len(modules) - _NAMED} more" if len(modules) > _NAMED else "")
