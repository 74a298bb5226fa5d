"""Tests that need eight devices; `tests/library/test_sharding.py` runs them in processes that are given eight."""
# SPDX-License-Identifier: Apache-2.0
