"""Keeps spectra in a file while they are measured, so that an interrupted inspection goes on where it was."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib

import numpy as np

from optax_alphadecay.inspection.spectra import Spectrum
from optax_alphadecay.inspection.tensors import CheckpointError

_FORMAT = "optax-alphadecay spectra 1"


class Resume:
    """Spectra by key, in a file of one line each."""

    def __init__(self, path: pathlib.Path | None):
        """Read what is there.

        Args:
          path: the file, made at the first spectrum if need be; None keeps nothing.

        Raises:
          CheckpointError: if the file holds something else.
        """
        self._path = path
        self._spectra: dict[str, Spectrum] = {}
        if path is None or not path.exists() or path.stat().st_size == 0:
            return
        first, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        if first != _FORMAT:
            raise CheckpointError(f"{path}: holds something else than spectra of an inspection; name another file")
        for line in lines:
            try:
                key, values, mean, stddev, traps = json.loads(line)
            except (TypeError, ValueError):  # the line that was being written when the process ended
                continue
            self._spectra[key] = Spectrum(np.array(values), mean, stddev, traps)

    def get(self, key: str) -> Spectrum | None:
        """The spectrum of this key, if it is there."""
        return self._spectra.get(key)

    def add(self, key: str, spectrum: Spectrum) -> None:
        """Keep a spectrum, in the file at once."""
        if self._path is None:
            return
        is_new = not self._path.exists() or self._path.stat().st_size == 0
        line = json.dumps([key, spectrum.eigenvalues.tolist(), spectrum.mean, spectrum.stddev, spectrum.traps])
        with self._path.open("a", encoding="utf-8") as file:
            # On a line of its own, even behind one that was broken off.
            file.write((_FORMAT if is_new else "") + "\n" + line)
