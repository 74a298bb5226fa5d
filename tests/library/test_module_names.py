"""What the names of a leaf and its layer say: an embedding, a head, a norm, or a matrix of a block."""
# SPDX-License-Identifier: Apache-2.0

import jax.numpy as jnp
import pytest

from optax_alphadecay.modules.names import excluded_as
from optax_alphadecay.modules.paths import plain_components
from tests.library.test_modules import MATRIX, selected


@pytest.mark.parametrize(
    "path",
    [
        "layers/0/attention/query/kernel",
        "h_3/mlp/c_fc/w",
        "blocks/1/multi_head_attention/linear/w",
        "encoder/layer/output/dense/kernel",
        "MultiHeadDotProductAttention_0/Dense_0/kernel",
        "transformer/layers_2/self_attn/o_proj",
        "lora_a",
    ],
)
def test_block_matrices_are_taken(path: str) -> None:
    assert selected({path: MATRIX}) == [path]


@pytest.mark.parametrize(
    "path",
    [
        "embed_tokens/weight",
        "Embed_0/embedding",
        "tok_emb",
        "wte/weight",
        "wpe",
        "position_embeddings/kernel",
        "unembed",
        "lm_head/kernel",
        "head/kernel",
        "head_0/kernel",
        "mlm_head",
        "logits_dense/kernel",
        "classifier/kernel",
        "ln_1/scale",
        "layers/ln1",
        "LayerNorm_0/scale",
        "final_rmsnorm/weight",
        "layers/input_norm/w",
        "attention/query/bias",
        "layers/mlp/~/linear_0/b",
        "relative_attention_bias",
        "layer_scale",
        "batch_stats/gamma",
    ],
)
def test_everything_else_is_left(path: str) -> None:
    assert selected({path: MATRIX}) == []


@pytest.mark.parametrize(
    "path",
    [
        "PreNorm_0/fn/to_qkv/kernel",
        "text_embedder/layers_0/q/kernel",
        "t_embedder/mlp/0/weight",
        "multi_scale/layers_1/kernel",
        "multi_scale/kernel",
        "Embedder/encoder/layers/0/q_proj/kernel/value",
        "head_0/blocks/1/up/kernel",
        "transformer.h.0.attn.c_attn.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "bert.encoder.layer.0.output.dense.weight",
        "q_proj/w_lora_a/value",
    ],
)
def test_containers_do_not_exclude_what_they_hold(path: str) -> None:
    assert selected({path: MATRIX}) == [path]


@pytest.mark.parametrize(
    "path",
    [
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "lm_head.weight",
        "model.embed_tokens.weight",
        "vit.embeddings.patch_embeddings.projection.weight",
        "lm_head.dense.weight",
        "cls.predictions.decoder.weight",
        "model.layers.0.input_layernorm.weight",
        "transformer.h.0.ln_1.weight",
        "embedder/input_embedding/value",
        "embed/tok",
        "patch_embed/proj/kernel",
        "final_norm/w/value",
        "embeddings/token_embeddings/weight/array",
    ],
)
def test_dotted_names_and_wrapped_leaves_are_read(path: str) -> None:
    assert selected({path: MATRIX}) == []


def test_lora_factors_are_no_biases() -> None:
    factors = {"a": jnp.ones((64, 50)), "b": jnp.ones((50, 64))}
    assert selected({"q": factors}) == ["q/a", "q/b"]
    assert selected({"q": factors | {"w": jnp.ones((64, 64))}}) == ["q/a", "q/b", "q/w"]
    assert selected({"linear": {"w": jnp.ones((64, 64)), "b": jnp.ones((60, 64))}}) == ["linear/w"]


def test_a_bias_is_known_by_its_kernel_though_that_is_masked() -> None:
    params = {"linear": {"w": jnp.ones((60, 64, 64)), "b": jnp.ones((60, 64))}}
    assert selected(params, mask={"linear": {"w": False, "b": True}}) == []


@pytest.mark.parametrize(
    ("name", "components"),
    [
        ("layers.0/w", ["layers", "0", "w"]),
        ("/a//b.", ["a", "b"]),
        ("a/w/value", ["a", "w"]),
        ("a/w/value/raw_value", ["a", "w"]),
        ("a/value/w", ["a", "value", "w"]),
        ("value", ["value"]),
        ("value/array", ["value"]),
        ("", []),
    ],
)
def test_what_merely_holds_an_array_has_no_name(name: str, components: list[str]) -> None:
    assert plain_components(name) == components


@pytest.mark.parametrize(
    ("name", "siblings", "said"),
    [
        ("linear/b", ["w", "b"], "'b' names a bias, as Haiku's do"),
        ("mlp/~/b", [], "'b' names a bias, as Haiku's do"),
        ("linear/b", ["b"], None),
        ("lora/b", ["a", "b", "w"], None),
        ("mlp/w_scale", [], "'w_scale' names a scale"),
        ("scale/kernel", [], None),
        ("embed/7/kernel", [], "'embed' names an embedding"),
        ("embed/proj/kernel", [], "'embed' names an embedding"),
        ("embed/mlp/proj/kernel", [], None),
        ("embed/proj", [], "'embed' names an embedding"),
        ("embed/mlp/proj", [], None),
        ("mlp_norm/proj", [], None),
        ("mlp_norm/w", [], "'mlp_norm' names a norm"),
        ("lm_head/dense/kernel", [], "'lm_head' names an output head"),
        ("head/mlp/kernel", [], "'head' names an output head"),
        ("head_0/mlp/kernel", [], None),
        ("", [], None),
    ],
)
def test_what_a_name_says_and_of_what(name: str, siblings: list[str], said: str | None) -> None:
    assert excluded_as(name, siblings) == said
