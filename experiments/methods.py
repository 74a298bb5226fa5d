"""How weights move and decay: one frozen dataclass a method, with no field that the method ignores."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from typing import Any, ClassVar, Literal

Coupling = Literal["adam", "adamw", "decoupled"]
"""How a decay enters: through Adam's moments, behind them, or behind moments that are not Adam's."""
Range = tuple[float, float]

Solver = Literal["auto", "tridiagonal", "eigvalsh", "jacobi", "svd", "stochastic"]
_RANGE: Range = (2 / 3, 3.0)


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """What all methods share: the learning rate, and clipping."""

    learning_rate: float = 1e-3
    """Peak of the cosine schedule."""
    warmup_fraction: float = 0.1
    """Share of the steps spent in linear warm-up from 0."""
    final_fraction: float = 0.1
    """Learning rate at the last step, as a share of the peak."""
    clip_norm: float = 1.0
    """Global gradient norm is clipped to this; 0 turns clipping off."""


@dataclasses.dataclass(frozen=True)
class AdamConfig(ScheduleConfig):
    """Adam."""

    b1: float = 0.9
    """Decay of Adam's first moment."""
    b2: float = 0.999
    """Decay of Adam's second moment."""
    eps: float = 1e-8
    """Added to the root of Adam's second moment."""


@dataclasses.dataclass(frozen=True)
class NoDecay(AdamConfig):
    """Adam alone."""

    method: ClassVar[str] = "none"
    coupling: ClassVar[Coupling] = "adam"
    weight_decay: ClassVar[float] = 0.0


@dataclasses.dataclass(frozen=True)
class _Decay(AdamConfig):
    """What all decays share."""

    weight_decay: float = 1e-5
    """The base rate eta."""
    coupling: Literal["adam", "adamw"] = "adam"
    """adam: decay enters the moments (the paper's Adam). adamw: decay is applied to the weights."""


@dataclasses.dataclass(frozen=True)
class _DecoupledOptions(_Decay):
    """Options of the coupling adamw."""

    corrected: bool = False
    """Let the base rate follow the learning rate, except the output layer's, as in AdamC; of the coupling adamw."""
    cautious: bool = False
    """Decay only the weights that the step does not take away from zero (arXiv 2510.12402); of the coupling adamw."""

    def __post_init__(self) -> None:
        """Refuses options that the coupling adam would ignore, and both at once."""
        _refuse_ignored(self, "coupling", "adamw", "corrected", "cautious")
        if self.corrected and self.cautious:  # the output layer, which is not corrected, would not be cautious either
            raise ValueError("optimizer.corrected and optimizer.cautious do not go together: choose one.")


def _refuse_ignored(config: Any, chooser: str, choice: Any, *names: str) -> None:
    """Raises if settings that another choice ignores are not at their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    ignored = [name for name in names if getattr(config, name) != defaults[name]]
    if getattr(config, chooser) != choice and ignored:
        raise ValueError(
            f"optimizer.{ignored[0]}={getattr(config, ignored[0])} is a setting of optimizer.{chooser}={choice}, "
            f"which is {getattr(config, chooser)}: leave it at {defaults[ignored[0]]}."
        )


@dataclasses.dataclass(frozen=True)
class Uniform(_Decay):
    """One rate for every weight."""

    method: ClassVar[str] = "uniform"


@dataclasses.dataclass(frozen=True)
class Awd(_Decay):
    """Adaptive weight decay (Ghiasi et al.): one rate for all weights, anew at each step."""

    method: ClassVar[str] = "awd"


@dataclasses.dataclass(frozen=True)
class AdaDecay(_Decay):
    """AdaDecay as the paper's authors ran it: a ratio per module, by its gradient's norm."""

    method: ClassVar[str] = "adadecay"
    refresh_every: int = 500
    """Optimizer steps from one reading of the gradients to the next."""


@dataclasses.dataclass(frozen=True)
class AdaDecayPerParameter(_Decay):
    """AdaDecay as published: a ratio per weight, by its gradient's size, anew at each step."""

    method: ClassVar[str] = "adadecay_per_parameter"


@dataclasses.dataclass(frozen=True)
class ByType(_DecoupledOptions):
    """A fixed ratio for each type of module: a control for methods that measure."""

    method: ClassVar[str] = "by_type"
    ratios: tuple[tuple[str, float], ...] = ()
    """Types of modules, such as `q_proj`, and their ratios; all else keeps the base rate."""


@dataclasses.dataclass(frozen=True)
class GradientScale(_Decay):
    """A ratio per module, in proportion to the size of its gradient over that of its weights; mean 1 over weights."""

    method: ClassVar[str] = "gradient_scale"
    refresh_every: int = 50
    """Optimizer steps from one reading of gradients and weights to the next."""
    alpha_range: tuple[float, ...] = ()
    """(s1, s2): times the ratios that AlphaDecay gives in this range; empty for the gradient's scale alone."""

    def __post_init__(self) -> None:
        """Refuses a range that is none."""
        if len(self.alpha_range) not in (0, 2):
            raise ValueError(f"optimizer.alpha_range={self.alpha_range} must be two numbers, or none.")


@dataclasses.dataclass(frozen=True)
class AlphaDecay(_DecoupledOptions):
    """A ratio per module, by its spectrum."""

    method: ClassVar[str] = "alphadecay"
    scale_range: Range = _RANGE
    """(s1, s2): ratios of the heaviest- and lightest-tailed module; of the linear assignment."""
    refresh_every: int = 500
    """Optimizer steps from one reading of the spectra to the next."""
    metric: Literal[
        "pl_alpha_hill",
        "grad_norm",
        "frobenius_norm",
        "spectral_norm",
        "stable_rank",
        "alpha_hat",
        "spectral_entropy",
        "alpha_over_random",
        "farms",
    ] = "pl_alpha_hill"
    """What is measured on each module. alpha_over_random: alpha - 1 over that of a random matrix of the module's shape.
    farms: alpha of the eigenvalues of square sub-matrices taken together (arXiv 2506.06280)."""
    fit: Literal["median", "goodness_of_fit", "fix_finger"] = "median"
    """Power-law fit; of pl_alpha_hill."""
    solver: Solver = "auto"
    """How metrics of spectra get eigenvalues: exactly, or, for large matrices on accelerators, as estimates."""
    assign: Literal["linear", "sqrt", "log2", "sigmoid"] = "linear"
    """How scores become ratios."""
    reverse: bool = False
    """Give the lowest scores the highest ratios: a control, of the linear assignment."""
    unit_mean: bool = False
    """Divide the ratios by their mean, so that the modules' decays average the base rate; of the linear assignment."""
    mean_over: Literal["modules", "weights"] = "modules"
    """What that mean is over: modules, or weights, where each module counts by its size; of unit_mean."""

    def __post_init__(self) -> None:
        """Refuses settings that the chosen metric, assignment or coupling would ignore."""
        super().__post_init__()
        _refuse_ignored(self, "assign", "linear", "scale_range", "reverse", "unit_mean")
        _refuse_ignored(self, "unit_mean", True, "mean_over")
        _refuse_ignored(self, "metric", "pl_alpha_hill", "fit")


@dataclasses.dataclass(frozen=True)
class Llr(_Decay):
    """Uniform decay, and a learning rate per module by its spectrum (LLR, arXiv 2605.22297).

    With adamw a step takes the learning rate times the decay, so that both differ between modules.
    """

    method: ClassVar[str] = "llr"
    rate_range: Range = (1.0, 5.0)
    """Of the module with the heaviest tail, and with the lightest, times the learning rate."""
    refresh_every: int = 50
    """Optimizer steps from one reading of the spectra to the next."""
    ramp: int = 50
    """Steps over which rates move to what a refresh gave."""

    def __post_init__(self) -> None:
        """Refuses a ramp of no steps."""
        if self.ramp < 1:
            raise ValueError(f"optimizer.ramp={self.ramp} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class AdamC(AdamConfig):
    """AdamW with one coefficient of decay for every weight that follows the learning rate."""

    method: ClassVar[str] = "adamc"
    coupling: ClassVar[Coupling] = "adamw"
    weight_decay: float = 0.1
    """The coefficient at the peak of the learning rate."""
    correct_output: bool = False
    """Correct the output layer too; its coefficient is constant otherwise."""


@dataclasses.dataclass(frozen=True)
class Scion(ScheduleConfig):
    """Steps of one length in the norm of each layer, and one constant coefficient of decay for every weight."""

    method: ClassVar[str] = "scion"
    coupling: ClassVar[Coupling] = "decoupled"
    weight_decay: float = 1 / 50
    """The coefficient; the norms' balls have a radius of 1 over it."""
    momentum: float = 0.1
    """Share of the newest gradient in the running mean; 1 is no momentum."""
    output_radius: float = 60.0
    """Length of the steps of embedding and output layer, in the sign norm, over that of the matrices'."""
    orthogonalize: Literal["newton_schulz", "polar_express", "svd"] = "polar_express"
    """How matrices are orthogonalised."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of that."""


@dataclasses.dataclass(frozen=True)
class ScionC(Scion):
    """Scion whose coefficient follows the learning rate for the matrices; `weight_decay` is its peak."""

    method: ClassVar[str] = "scionc"


Method = (
    NoDecay
    | Uniform
    | Awd
    | AdaDecay
    | AdaDecayPerParameter
    | ByType
    | GradientScale
    | AlphaDecay
    | Llr
    | AdamC
    | Scion
    | ScionC
)
METHODS: dict[str, type[Method]] = {
    method.method: method
    for method in (
        NoDecay, Uniform, Awd, AdaDecay, AdaDecayPerParameter, ByType, GradientScale, AlphaDecay, Llr, AdamC,
        Scion, ScionC,
    )
}  # fmt: skip
"""Every method by its name, the value of `--optimizer.method`."""


def with_settings(optimizer: Method, method: str | None = None, **settings: Any) -> Method:
    """The settings with others, and of another method if one is named.

    Settings that the new method, metric or assignment does not have are dropped, so that two runs that compute the
    same are equal.

    Args:
        optimizer: Where to start.
        method: A key of `METHODS`; None keeps the method.
        settings: Fields of any method.

    Raises:
        ValueError: If no method has a field of that name, or there is no such method.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"optimizer.method={method} is none of {', '.join(METHODS)}.")
    known = {field.name for each in METHODS.values() for field in dataclasses.fields(each)}
    if unknown := settings.keys() - known:
        raise ValueError(f"no optimizer has a setting {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}.")
    kind = METHODS[optimizer.method if method is None else method]
    merged = {**{field.name: getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)}, **settings}
    kept = {field.name: merged[field.name] for field in dataclasses.fields(kind) if field.name in merged}
    if kept.get("assign", "linear") != "linear":
        kept = {name: value for name, value in kept.items() if name not in ("scale_range", "reverse", "unit_mean")}
    if not kept.get("unit_mean", False):
        kept.pop("mean_over", None)
    if kept.get("metric", "pl_alpha_hill") != "pl_alpha_hill":
        kept.pop("fit", None)
    return kind(**kept)
