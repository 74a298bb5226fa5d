"""What is done to a copy of the repository before it is built for PyPI."""
# SPDX-License-Identifier: Apache-2.0
