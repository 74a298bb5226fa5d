"""Scores to ratios: each module's share of the weight decay."""
# SPDX-License-Identifier: Apache-2.0
