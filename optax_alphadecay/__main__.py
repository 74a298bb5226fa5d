"""Inspects checkpoints: `python -m optax_alphadecay PATH ...`."""
# SPDX-License-Identifier: Apache-2.0

import sys

from optax_alphadecay.inspection.command import main

if __name__ == "__main__":
    sys.exit(main())
