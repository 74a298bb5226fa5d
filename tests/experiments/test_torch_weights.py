"""The PyTorch converter: exact there and back, strict, and true to the losses and weights PyTorch recorded."""
# SPDX-License-Identifier: Apache-2.0

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.models.llama import next_token_loss
from experiments.models.torch_weights import from_torch, to_torch, torch_name
from tests.library import replay


def test_there_and_back_is_exact() -> None:
    weights = replay.recorded_weights("init_weights")
    back = to_torch(from_torch(replay.CONFIG, weights))
    assert back.keys() == weights.keys()
    for name, weight in weights.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], weight, err_msg=name)


def test_half_precision_weights_become_float32() -> None:
    weights = {name: weight.astype(np.float16) for name, weight in replay.recorded_weights("init_weights").items()}
    for name, weight in to_torch(from_torch(replay.CONFIG, weights)).items():
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight, weights[name], err_msg=name)


def test_first_loss_is_pytorchs() -> None:
    model = from_torch(replay.CONFIG, replay.recorded_weights("init_weights"))
    loss = nnx.jit(next_token_loss)(model, replay.batches()[0])
    for name in ("adam_uniform", "adam_awd"):
        recorded = replay.record(name)["loss"][0]
        np.testing.assert_allclose(loss, recorded, rtol=5e-7)


def test_every_misfit_is_named() -> None:
    weights = replay.recorded_weights("init_weights")
    del weights["model.norm.weight"], weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.layers.2.mlp.up_proj.weight"] = np.zeros((172, 64))
    weights["model.layers.0.mlp.up_proj.weight"] = np.zeros((64, 172))
    with pytest.raises(ValueError, match="does not fit") as error:
        from_torch(replay.CONFIG, weights)
    assert sorted(str(error.value).splitlines()[1:]) == [
        "  missing: model.layers.1.mlp.up_proj.weight",
        "  missing: model.norm.weight",
        "  unknown: model.layers.2.mlp.up_proj.weight",
        "  wrong shape: model.layers.0.mlp.up_proj.weight is (64, 172), not (172, 64)",
    ]


def test_names() -> None:
    assert torch_name("layers/self_attn/q_proj/kernel", 1) == "model.layers.1.self_attn.q_proj.weight"
    assert torch_name("embed/embedding") == "model.embed_tokens.weight"
    with pytest.raises(ValueError, match="'layers/q_proj' is not a parameter"):
        torch_name("layers/q_proj", 0)
    with pytest.raises(ValueError, match="pass layer="):
        torch_name("layers/input_norm/scale")


@pytest.mark.parametrize("stacked", [True, False])
def test_replay_of_uniform_decay(stacked: bool) -> None:
    recorded = replay.record("adam_uniform")
    optimizer = optax.chain(
        optax.add_decayed_weights(recorded["base_weight_decay"]), optax.adam(recorded["lr"], *recorded["betas"])
    )
    run = replay.run(optimizer, stacked=stacked, keep=(0, 60))
    np.testing.assert_allclose(run.losses, recorded["loss"], rtol=1e-5)
    np.testing.assert_allclose(run.gradient_norms, recorded["grad_norm_total"], rtol=1e-5)
    assert replay.largest_difference(run.weights, "adam_uniform_final_weights") < 2e-4
    assert [optax.tree.get(run.states[update], "count") for update in (0, 60)] == [0, 60]


def test_modules_of_a_recorded_run() -> None:
    modules = replay.recorded_modules(replay.record("adam_alphadecay_0.6666_3"))
    assert modules.keys() == to_torch(from_torch(replay.CONFIG, replay.recorded_weights("init_weights"))).keys()
    assert sum(modules.values()) == 13
    assert not modules["model.layers.0.self_attn.q_proj.weight"]
    assert modules["model.layers.1.self_attn.q_proj.weight"]


def test_padding_row_in_both_layouts() -> None:
    for name in ("embed", "model.embed_tokens.weight"):
        gradients = replay.without_padding_row({name: jnp.ones((3, 2)), "lm_head": jnp.ones((3, 2))})
        assert gradients[name].sum() == 4
        assert gradients["lm_head"].sum() == 6
