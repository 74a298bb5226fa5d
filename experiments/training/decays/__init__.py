"""Decays and learning rates of modules that are built here, and how strong a decay really is."""
# SPDX-License-Identifier: Apache-2.0
