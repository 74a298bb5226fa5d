"""Rules for kernels of known models, each with an example; `tests/clients` has them on the parameters of real ones."""
# SPDX-License-Identifier: Apache-2.0

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay import modules
from optax_alphadecay.modules.ready import RULES

READY = [
    *[
        (model, f"layers_0/attention/{name}/kernel", (64, 4, 32), (1, 64, 128))
        for model in ("flax", "maxtext")
        for name in ("query", "key", "value")
    ],
    *[(model, "layers_0/attention/out/kernel", (4, 32, 64), (1, 128, 64)) for model in ("flax", "maxtext")],
    ("maxtext", "layers/self_attention/qkv_proj/kernel", (64, 2, 3, 4, 16), (6, 64, 64)),
    ("maxtext", "layers/mlp/wi/kernel", (64, 2, 2, 96), (4, 64, 96)),
    *[
        ("maxtext", f"layers/self_attention/{name}/kernel", (64, 2, 4, 32), (2, 64, 128))
        for name in ("wq_b", "wkv_b", "wq")
    ],
    *[
        ("maxtext", f"moe_layers/MoeBlock_0/{name}", (3, 2, 64, 96), (6, 64, 96))
        for name in ("wi", "wi_0", "wi_1", "wo")
    ],
    *[("tunix", f"layers/0/attn/{name}_proj/w", (64, 4, 32), (1, 64, 128)) for name in "qkv"],
    ("tunix", "layers/0/attn/o_proj/w", (4, 32, 64), (1, 128, 64)),
    *[("tunix", f"layers/0/mlp/{name}_proj", (3, 64, 96), (3, 64, 96)) for name in ("gate", "up", "down")],
    ("tunix", "layers/0/attn/q_einsum/w", (4, 64, 32), (1, 64, 128)),
    ("tunix", "layers/0/attn/kv_einsum/w", (2, 3, 64, 32), (2, 64, 96)),
    ("tunix", "layers/0/attn/qkv_einsum/w", (3, 4, 64, 32), (3, 64, 128)),
    ("tunix", "layers/0/attn/attn_vec_einsum/w", (4, 32, 64), (1, 128, 64)),
    *[
        ("convolutions", f"conv1/{name}", (64, 32, *[3] * (rank - 2)), (1, 32 * 3 ** (rank - 2), 64))
        for rank, name in ((3, "weight"), (4, "weight"), (5, "weight"))
    ],
    *[
        ("convolutions", f"encoder/conv_1/{name}", (*[3] * (rank - 2), 32, 64), (1, 32 * 3 ** (rank - 2), 64))
        for rank, name in ((3, "kernel"), (4, "w"), (5, "kernel"))
    ],
    *[(model, "mlp/experts/wi", (3, 64, 96), (3, 64, 96)) for model in ("experts", "tunix")],
]


@pytest.mark.parametrize(("model", "path", "shape", "expected"), READY)
def test_ready_rules_know_kernels_by_name_and_rank(model: str, path: str, shape: Any, expected: Any) -> None:
    [stack] = modules.resolve({path: jnp.ones(shape)}, oad.modules_for(model))
    assert stack.shape == expected


def test_every_ready_rule_is_known_by_an_example() -> None:
    for model, rules in RULES.items():
        paths = [path for known, path, *_ in READY if known == model]
        for rule in rules:
            assert rule.parts or any(re.search(rule.pattern, path) for path in paths), rule


@pytest.mark.parametrize("shape", [(64, 192), (192, 64)])
def test_the_fused_kernel_of_gpt2_is_cut_along_its_longer_side(shape: tuple[int, int]) -> None:
    leaf = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    stacks = modules.resolve({"attn": {"c_attn": {"kernel": leaf}}}, oad.modules_for("gpt2"))
    parts = np.split(leaf, 3, axis=shape.index(192))
    for stack, part in zip(stacks, parts, strict=True):
        np.testing.assert_array_equal(stack.as_matrices(jnp.asarray(leaf))[0], part if shape[0] == 64 else part.T)
