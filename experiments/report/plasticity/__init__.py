"""Weight decay and plasticity in the report: base models compared and looked into, and rates of fine-tuning."""
# SPDX-License-Identifier: Apache-2.0
