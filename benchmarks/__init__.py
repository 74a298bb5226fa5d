"""What alphadecay costs, measured against its budgets: `python -m benchmarks.run`."""
# SPDX-License-Identifier: Apache-2.0
