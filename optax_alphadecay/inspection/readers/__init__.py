"""Files and folders to checkpoints, each format in a file of its own. Nothing that is read is executed."""
# SPDX-License-Identifier: Apache-2.0

from optax_alphadecay.inspection.readers.find import open_checkpoint

__all__ = ["open_checkpoint"]
