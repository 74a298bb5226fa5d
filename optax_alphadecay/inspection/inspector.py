"""Measures a checkpoint, or parameters in memory, one tensor at a time."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools
import hashlib
import itertools
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_alphadecay.assignment.protocol import Assignment, assign_ratios
from optax_alphadecay.inspection.adapters import Adapter, find_adapters
from optax_alphadecay.inspection.ratios import linear_ratios
from optax_alphadecay.inspection.readers import open_checkpoint
from optax_alphadecay.inspection.records import Inspection, ModuleRecord, record
from optax_alphadecay.inspection.resume import Resume
from optax_alphadecay.inspection.selection import Chosen, matrices_of, select
from optax_alphadecay.inspection.spectra import Spectrum, measure, measure_product
from optax_alphadecay.inspection.tensors import Checkpoint, CheckpointError, Tensor
from optax_alphadecay.modules import BlockMatrices, ModuleRule

Progress = Callable[[float, str], None]
"""Called with the share of the work that is done, and the tensor at hand."""


def inspect(
    params_or_path: Any,
    *,
    modules: ModuleRule = None,
    exclude: Collection[str] = (),
    weight_decay: float = 0.1,
    assign: Assignment | None = None,
    shuffle: bool = True,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    on_progress: Progress | None = None,
) -> Inspection:
    """Measure the spectra of all modules of a model, and the decay AlphaDecay would give each.

    One tensor is in memory at a time, whatever the size of the checkpoint. Factors of LoRA adapters are measured as
    the product that they stand for, unless ``modules`` is a tree or a function of your own.

    Args:
      params_or_path: parameters, or the path of a checkpoint: safetensors (one file, or a folder with shards and their
        index), Orbax, ``.npz``, ``.npy``, and PyTorch's files by ``weights_only`` loading. No pickle is executed.
      modules: which leaves are modules, as given to :func:`alphadecay`. A checkpoint is one dictionary of tensors named
        by their path, joined by slashes. If None, those of :func:`block_matrices`; what such a rule cannot
        read is left out.
      exclude: regular expressions; tensors whose name one of them is found in are left out.
      weight_decay: base rate.
      assign: from alphas to ratios; :func:`linear` if None.
      shuffle: also measure each matrix with its entries shuffled, for correlation traps. Doubles the time.
      seed: of the shuffling.
      resume: file that keeps what was measured; what it already holds is not measured again.
      on_progress: called after each tensor.

    Returns:
      One record a module, and what was left out with the reason.

    Raises:
      ValueError: if a checkpoint cannot be read, in one line that names the file and the cause.

    Example:
      >>> import jax
      >>> import optax_alphadecay as oad
      >>> weights = jax.random.normal(jax.random.key(0), (64, 256))
      >>> inspection = oad.inspect({"layers": {"0": {"up": weights, "norm": weights[0]}}})
      >>> [(module.name, module.shape, module.layer, module.traps) for module in inspection]
      [('layers/0/up', (64, 256), 0, 0)]
      >>> [(tensor.name, tensor.reason) for tensor in inspection.left_out]
      [('layers/0/norm', "'norm' names a norm")]
    """
    params, checkpoint = None, params_or_path
    if isinstance(params_or_path, str | os.PathLike):
        checkpoint = open_checkpoint(pathlib.Path(params_or_path))
    elif not isinstance(params_or_path, Checkpoint):
        params, checkpoint = params_or_path, _checkpoint_of(params_or_path, with_fingerprint=resume is not None)
    adapters: list[Adapter] = []
    unpaired, tensors = list(checkpoint.left_out), list(checkpoint.tensors)
    if modules is None or isinstance(modules, BlockMatrices):
        adapters, tensors, alone = find_adapters(tensors)
        unpaired += alone
    chosen, left_out, unmatched = select(checkpoint.tensors, params=params, modules=modules, exclude=exclude)
    rest = {tensor.name for tensor in tensors}
    chosen = [(tensor, stacks) for tensor, stacks in chosen if tensor.name in rest]
    left_out = [tensor for tensor in left_out if tensor.name in rest]
    work = _Work(checkpoint, shuffle, seed, Resume(pathlib.Path(resume) if resume is not None else None))
    costs = [_cost(tensor.shape) for tensor, _ in chosen] + [_cost((*adapter.shape, 0)) for adapter in adapters]
    parts = itertools.chain(map(work.records_of, chosen), map(work.record_of_adapter, adapters))
    records: list[ModuleRecord] = []
    for done, part in zip(itertools.accumulate(costs), parts, strict=True):
        records += part
        if on_progress:
            on_progress(done / sum(costs), part[-1].name)
    inspection = Inspection(checkpoint.path, tuple(records), (*unpaired, *left_out), weight_decay, unmatched)
    return _with_ratios(inspection, assign)


@dataclasses.dataclass(frozen=True)
class _Work:
    """Reads tensors and measures the modules in them."""

    checkpoint: Checkpoint
    shuffle: bool
    seed: int
    resume: Resume

    def records_of(self, chosen: Chosen) -> list[ModuleRecord]:
        """Make the records of one tensor, which is read unless all of its spectra are known."""
        tensor, stacks = chosen
        names = [name for stack in stacks for name in stack.names]
        shapes = [stack.shape[1:] for stack in stacks for _ in stack.names]
        keys = [self._key(name, stack.axes) for stack in stacks for name in stack.names]
        spectra = [self.resume.get(key) for key in keys]
        if None in spectra:
            values = self._load(tensor)
            for at, (name, matrix) in enumerate(matrices_of(stacks, values)):
                if spectra[at] is None:
                    spectra[at] = self._keep(keys[at], measure(matrix, shuffle=self._shuffle(name)))
        return [
            record(name, shape, str(tensor.dtype), spectrum)
            for name, shape, spectrum in zip(names, shapes, spectra, strict=True)
            if spectrum is not None
        ]

    def record_of_adapter(self, adapter: Adapter) -> list[ModuleRecord]:
        """Make the record of the product of an adapter's factors."""
        scale, note = self._scale(adapter)
        key = self._key(adapter.name, scale)
        spectrum = self.resume.get(key)
        if spectrum is None:
            spectrum = self._keep(key, measure_product(self._load(adapter.left), self._load(adapter.right), scale))
        return [record(adapter.name, adapter.shape, str(adapter.left.dtype), spectrum, note=note, is_product=True)]

    def _scale(self, adapter: Adapter) -> tuple[float, str]:
        rank = f"LoRA of rank {adapter.rank}"
        if adapter.scale is not None:
            return float(self._load(adapter.scale).astype(np.float64).mean()) / adapter.rank, rank
        if self.checkpoint.lora_scale is not None:
            return self.checkpoint.lora_scale, rank
        return 1.0, f"{rank}; its scale is not stored and taken for 1"

    def _load(self, tensor: Tensor) -> np.ndarray:
        try:
            return tensor.load()
        except (OSError, MemoryError, ValueError) as error:
            raise CheckpointError(f"{self.checkpoint.path}: {tensor.name!r} cannot be read: {error}") from error

    def _key(self, name: str, reading: object) -> str:
        """Name a spectrum: another reading of the tensor, by its axes or an adapter's scale, has another."""
        return f"{self.checkpoint.fingerprint}/{self.seed if self.shuffle else '-'}/{reading}/{name}"

    def _keep(self, key: str, spectrum: Spectrum) -> Spectrum:
        self.resume.add(key, spectrum)
        return spectrum

    def _shuffle(self, name: str) -> np.random.Generator | None:
        # By name, so that it does not depend on what was measured before.
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())]) if self.shuffle else None


def _cost(shape: tuple[int, ...]) -> float:
    """Estimate the time a tensor takes: its bytes and, for what it holds, the eigenvalues of Gram matrices."""
    size = float(np.prod(shape, dtype=float))
    return 1.0 + size * (sorted(shape)[-2] + 10)


def _with_ratios(inspection: Inspection, assign: Assignment | None) -> Inspection:
    """Add the ratio and the decay of each module; products of factors have none."""
    own = [at for at, module in enumerate(inspection.modules) if not module.is_product]
    names = [inspection.modules[at].name for at in own]
    scores = np.array([inspection.modules[at].alpha for at in own], np.float32)
    modules = list(inspection.modules)
    sizes = [math.prod(inspection.modules[at].shape) for at in own]
    if assign is None:
        ratios = linear_ratios(scores)
    else:
        ratios = np.asarray(assign_ratios(assign, jnp.asarray(scores), names, sizes))
    for at, ratio in zip(own, ratios.tolist(), strict=True):
        decay = ratio * inspection.weight_decay
        modules[at] = dataclasses.replace(modules[at], ratio=ratio, decay=decay)
    return dataclasses.replace(inspection, modules=tuple(modules))


def _checkpoint_of(params: Any, with_fingerprint: bool) -> Checkpoint:
    """See parameters in memory as a checkpoint, whose tensors are copied one at a time.

    The fingerprint is of their contents, which are all that tells one step's parameters from the next one's.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    tensors = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
            raise ValueError(
                f"inspect: {name!r} is {leaf!r}, not an array. Pass parameters, or the path of a checkpoint; of an"
                " Equinox model the parameters are eqx.filter(model, eqx.is_inexact_array)."
            )
        tensors.append(Tensor(name, jnp.shape(leaf), jnp.result_type(leaf), functools.partial(np.array, leaf)))
    return Checkpoint("params", tuple(tensors), fingerprint=_fingerprint(tensors) if with_fingerprint else "")


def _fingerprint(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.load().tobytes())
    return digest.hexdigest()[:16]
