"""The inspector on real checkpoints, alone and beside WeightWatcher."""
# SPDX-License-Identifier: Apache-2.0
