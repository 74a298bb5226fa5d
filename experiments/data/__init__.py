"""Text and images, from files to batches."""
# SPDX-License-Identifier: Apache-2.0
