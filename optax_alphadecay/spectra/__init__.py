"""Spectra: eigenvalues of matrices, and what is read off them."""
# SPDX-License-Identifier: Apache-2.0
