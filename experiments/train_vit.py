"""Trains a Vision Transformer: `python -m experiments.train_vit PRESET [options]`. Started again, it resumes."""
# SPDX-License-Identifier: Apache-2.0

import sys
from collections.abc import Sequence

from experiments.parallel import distributed
from experiments.training.image_classification import IMAGE_CLASSIFICATION
from experiments.training.launch import launch
from experiments.vision_config import from_command_line


@distributed.ends_together
def main(args: Sequence[str] | None = None) -> int:
    """Trains and reports; arguments and exit codes are those of `train.main`."""
    return launch(from_command_line(args), IMAGE_CLASSIFICATION)


if __name__ == "__main__":
    sys.exit(main())
