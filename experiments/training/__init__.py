"""The loop, and all that it keeps: optimizers, steps, checkpoints, metrics, figures."""
# SPDX-License-Identifier: Apache-2.0
