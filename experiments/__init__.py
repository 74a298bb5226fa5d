"""Pre-training with the library: data, models, training, evaluation and reports. Not part of the wheel."""
# SPDX-License-Identifier: Apache-2.0
