"""Tables and figures as lists of runs, and what makes those runs."""
# SPDX-License-Identifier: Apache-2.0
