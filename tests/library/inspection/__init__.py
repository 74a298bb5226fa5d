"""Tests of the library, file by file."""
# SPDX-License-Identifier: Apache-2.0
