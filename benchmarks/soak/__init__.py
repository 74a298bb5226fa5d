"""A soak: runs of two processes under random faults, compared with one without."""
# SPDX-License-Identifier: Apache-2.0
