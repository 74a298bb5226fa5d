"""Checkpoints to tables and pages: what the spectra of a trained model look like."""
# SPDX-License-Identifier: Apache-2.0
