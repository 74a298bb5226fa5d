"""Fine-tuning: from the checkpoint of a run to what it can learn, and what its states and matrices hold."""
# SPDX-License-Identifier: Apache-2.0
