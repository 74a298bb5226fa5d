"""Measures the newest checkpoint of a run: `python -m experiments.evaluate PRESET --workdir ...`."""
# SPDX-License-Identifier: Apache-2.0

import sys
from collections.abc import Sequence

import jax

from experiments.command_line import ends_in_a_line
from experiments.data.tokenizer import check_vocab_size, load_tokenizer
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel import distributed, sharding
from experiments.presets import from_command_line
from experiments.training.checkpoints import restore_params
from experiments.training.language_modeling import evaluate, unigram_of, validation_set, verdict
from experiments.training.workdir import find_run, shared_settings


@distributed.ends_together
@ends_in_a_line
def main(args: Sequence[str] | None = None) -> int:
    """Prints the validation perplexity, beside a unigram model's."""
    config = from_command_line(args, prog="python -m experiments.evaluate")
    try:
        distributed.join_processes()
        distributed.check_agreement(shared_settings(config, "evaluate"))
        mesh = sharding.make_mesh(config)
        check_vocab_size(load_tokenizer(config.data.tokenizer), config.model.vocab_size)
        distributed.from_first_process(lambda: find_run(config))
        graphdef, shapes = abstract_model(config.model, Llama)
        step, params = restore_params(config.workdir / "checkpoints", sharding.abstract(shapes, mesh, Llama.spec_of))
        validation = evaluate(graphdef, params, validation_set(config), mesh)
        if jax.process_index() == 0:
            print(f"step {step}: {verdict(validation, unigram_of(config))}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
