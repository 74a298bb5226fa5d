"""Corrected weight decay: coefficients that follow the learning rate, and the weight norms that decay settles at."""
# SPDX-License-Identifier: Apache-2.0
