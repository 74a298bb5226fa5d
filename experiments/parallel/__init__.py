"""Processes, meshes, and where arrays lie on them."""
# SPDX-License-Identifier: Apache-2.0
