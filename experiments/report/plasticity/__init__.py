"""Weight decay and plasticity in the report: base models compared, and the learning rate they were fine-tuned at."""
# SPDX-License-Identifier: Apache-2.0
