"""Norms of weights: their unit balls, and the steps that minimise a gradient over them."""
# SPDX-License-Identifier: Apache-2.0
