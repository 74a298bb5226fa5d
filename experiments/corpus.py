"""Makes a corpus and its tokenizer, the embedded one or of any text: `python -m experiments.corpus [--text FOLDER]`."""
# SPDX-License-Identifier: Apache-2.0

import sys

import tyro

from experiments.data.corpus import main

if __name__ == "__main__":
    sys.exit(tyro.cli(main))
