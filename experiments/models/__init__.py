"""The networks, each with its loss and its sharding."""
# SPDX-License-Identifier: Apache-2.0
