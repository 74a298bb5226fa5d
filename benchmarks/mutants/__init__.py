"""Mutation testing: breaks the library in small ways, and counts what its tests notice."""
# SPDX-License-Identifier: Apache-2.0
