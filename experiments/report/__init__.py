"""Turns the results of runs into one Markdown report: `python -m experiments.report`."""
# SPDX-License-Identifier: Apache-2.0
