"""Imported by the server that runs are forked from: a signal to the whole process group must not end it."""
# SPDX-License-Identifier: Apache-2.0

import signal

# Runs inherit this until they listen for themselves; who stops them asks until they do.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
