"""The Vision Transformer: sizes of the presets, its modules, a float64 reference, symmetries and the loss."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_alphadecay as oad
from experiments.models.common import abstract_model, num_parameters
from experiments.models.vit import Vit
from experiments.training.optimizers import MODULES, MODULEWISE, make_optimizer
from experiments.vision_config import PRESETS, Batch, VitConfig

TINY = VitConfig(18, 11, 3, 2, 6, 2, 5, (0.2, 0.5, 0.9), (0.3, 0.1, 0.7), norm_eps=1e-2, compute_dtype="float32")


def build(config: VitConfig = TINY) -> Vit:
    """A model with sharp attention, biases, and norms that scale, unlike at initialisation."""
    rng = np.random.default_rng(0)
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: Vit(config, rngs=nnx.Rngs(0))))

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(rng.normal(mean, 0.3, leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map_with_path(draw, shapes))


def images(batch: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(256, size=(batch, 6, 6, 3), dtype=np.uint8)


@nnx.jit
def logits_of(model: Vit, pixels: Any) -> jax.Array:
    return model(pixels)


def named(params: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.mark.parametrize(("preset", "channels", "count"), [("imagenet", 3, 5_717_416), ("digits", 1, 102_666)])
def test_presets_have_the_sizes_of_the_architecture(preset: str, channels: int, count: int) -> None:
    description, config = PRESETS[preset]
    model = config.model
    n, d, f, k = model.num_layers, model.hidden_size, model.intermediate_size, model.num_classes
    params = abstract_model(model, Vit)[1]
    assert {name: leaf.shape for name, leaf in named(params).items()} == {
        "embed/kernel": (model.patch_size**2 * channels, d),
        "embed/bias": (d,),
        "embed_class": (1, 1, d),
        "embed_position": (1, (model.image_size // model.patch_size) ** 2 + 1, d),
        **{f"layers/{norm}/{x}": (n, d) for norm in ("input_norm", "post_attention_norm") for x in ("scale", "bias")},
        **{f"layers/self_attn/{x}_proj/kernel": (n, d, d) for x in "qkvo"},
        **{f"layers/self_attn/{x}_proj/bias": (n, d) for x in "qkvo"},
        "layers/mlp/up_proj/kernel": (n, d, f),
        "layers/mlp/up_proj/bias": (n, f),
        "layers/mlp/down_proj/kernel": (n, f, d),
        "layers/mlp/down_proj/bias": (n, d),
        "final_norm/scale": (d,),
        "final_norm/bias": (d,),
        "head/kernel": (d, k),
        "head/bias": (k,),
    }
    assert num_parameters(params) == count
    assert preset == "imagenet" or description.startswith(f"{count / 1e6:.2f}M parameters")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("preset", PRESETS)
def test_modules_are_the_six_matrices_of_each_block(preset: str) -> None:
    config = PRESETS[preset].config
    params = abstract_model(config.model, Vit)[1]
    optimizer = make_optimizer(config.optimizer, config.steps)
    decay = optimizer if isinstance(config.optimizer, MODULEWISE) else oad.alphadecay(0.1, modules=MODULES)
    state = jax.eval_shape(decay.init, params)
    expected = {
        f"layers/{matrix}/kernel/{layer}"
        for matrix in (*(f"self_attn/{x}_proj" for x in "qkvo"), "mlp/up_proj", "mlp/down_proj")
        for layer in range(config.model.num_layers)
    }
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), (state, params))
    rows = oad.module_table(*zeros, modules=MODULES)
    assert {row.name for row in rows} == expected and len(rows) == 6 * config.model.num_layers
    assert all(min(row.shape) >= 64 for row in rows)


def test_weights_are_cut_on_the_residual_stream() -> None:
    for name, leaf in named(abstract_model(TINY, Vit)[1]).items():
        path = tuple(jax.tree_util.DictKey(key) for key in name.split("/"))
        axes = [axis for axis, part in enumerate(Vit.spec_of(path, leaf)) if part]
        assert [leaf.shape[axis] for axis in axes] == ([TINY.hidden_size] if name.endswith("kernel") else []), name


def reference_logits(config: VitConfig, params: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """One image in float64 NumPy, patch by patch, block by block, head by head."""

    def linear(x: np.ndarray, name: str, weights: dict[str, np.ndarray]) -> np.ndarray:
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def norm(x: np.ndarray, name: str, weights: dict[str, np.ndarray]) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        root = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config.norm_eps)
        return centred / root * weights[f"{name}/scale"] + weights[f"{name}/bias"]

    def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        return weights @ v / weights.sum(axis=1, keepdims=True)

    pixels = (image / 255 - np.array(config.pixel_mean)) / np.array(config.pixel_stddev)
    p, size = config.patch_size, config.image_size
    corners = [(top, left) for top in range(0, size, p) for left in range(0, size, p)]
    patches = np.stack([pixels[top : top + p, left : left + p].ravel() for top, left in corners])
    tokens = [params["embed_class"][0], linear(patches, "embed", params)]
    x = np.concatenate(tokens) + params["embed_position"][0]
    for layer in range(config.num_layers):
        block = {name.removeprefix("layers/"): leaf[layer] for name, leaf in params.items() if "layers/" in name}
        y = norm(x, "input_norm", block)
        qkv = [np.split(linear(y, f"self_attn/{z}_proj", block), config.num_heads, axis=1) for z in "qkv"]
        heads = [attend(q, k, v) for q, k, v in zip(*qkv, strict=True)]
        x = x + linear(np.concatenate(heads, axis=1), "self_attn/o_proj", block)
        hidden = linear(norm(x, "post_attention_norm", block), "mlp/up_proj", block)
        gelu = hidden * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2))) / 2
        x = x + linear(gelu, "mlp/down_proj", block)
    return linear(norm(x, "final_norm", params)[0], "head", params)


def test_logits_match_a_float64_reference() -> None:
    model = build()
    params = {name: np.asarray(leaf, np.float64) for name, leaf in named(nnx.to_pure_dict(nnx.state(model))).items()}
    expected = np.stack([reference_logits(TINY, params, image) for image in images()])
    logits = logits_of(model, images())
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    half = nnx.merge(nnx.split(build(dataclasses.replace(TINY, compute_dtype="bfloat16")))[0], nnx.state(model))
    np.testing.assert_allclose(logits_of(half, images()), expected, atol=0.1)


def test_images_do_not_see_each_other_and_patches_have_no_order_but_their_positions() -> None:
    model, batch = build(), images()
    logits = logits_of(model, batch)
    np.testing.assert_allclose(
        logits_of(model, batch[[2, 0, 0, 1]]), logits[jnp.array([2, 0, 0, 1])], rtol=1e-5, atol=1e-5
    )
    # The patches of the first row change places with those of the last, once without and once with their positions.
    swapped = np.concatenate([batch[:, 4:], batch[:, 2:4], batch[:, :2]], axis=1)
    assert np.abs(logits_of(model, swapped) - logits).max() > 0.1
    positions = model.embed_position[...]
    model.embed_position[...] = positions[:, jnp.array([0, 7, 8, 9, 4, 5, 6, 1, 2, 3])]
    np.testing.assert_allclose(logits_of(model, swapped), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_is_the_cross_entropy_with_smoothed_labels(smoothing: float) -> None:
    model = build(dataclasses.replace(TINY, label_smoothing=smoothing))
    batch = Batch(images(), np.array([0, 4, 2, 2], np.int32))
    logits = np.asarray(logits_of(model, batch.images), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = np.full((4, 5), smoothing / 5)
    target[np.arange(4), batch.labels] += 1 - smoothing
    np.testing.assert_allclose(
        nnx.jit(Vit.loss)(model, batch), -(target * log_probabilities).sum(axis=1).mean(), rtol=1e-5
    )


@pytest.mark.parametrize(("field", "divisor"), [("hidden_size", "num_heads"), ("image_size", "patch_size")])
def test_sizes_must_divide(field: str, divisor: str) -> None:
    changes: dict[str, Any] = {divisor: 5}
    config = dataclasses.replace(TINY, **changes)
    with pytest.raises(ValueError, match=f"{field}=.* is not a multiple of {divisor}=5"):
        Vit(config, rngs=nnx.Rngs(0))
