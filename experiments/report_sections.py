"""The report's figures with what each shows in a line."""
# SPDX-License-Identifier: Apache-2.0
