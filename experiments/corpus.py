"""Makes the embedded corpus and its tokenizer: `python -m experiments.corpus`."""
# SPDX-License-Identifier: Apache-2.0

import tyro

from experiments.data.corpus import main

if __name__ == "__main__":
    tyro.cli(main)
