"""Tests of the experiments, package by package."""
# SPDX-License-Identifier: Apache-2.0
