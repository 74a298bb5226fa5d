"""Trainers that others wrote train with alphadecay, and every matrix of the blocks gets a ratio of its own."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import optax_alphadecay as oad
from tests.clients import with_their_code
from tests.clients.parameters import CLIENTS, HEADS, HIDDEN, LAYERS, VOCABULARY, WIDTH
from tests.library import framework_models as models

TOKENS = np.arange(24, dtype=np.int32).reshape(2, 12) * 7 % VOCABULARY
METRIC = oad.frobenius_norm()  # the quickest to compile

pytestmark = pytest.mark.clients


def decays(rule: Any) -> dict[str, Any]:
    return {"weight_decay": 0.1, "metric": METRIC, "modules": rule, "refresh_every": 2}


def check(state: Any, params: Any, rule: Any, expected: int) -> None:
    """The table of a state after training has so many modules, and they share out the decay."""
    table = oad.module_table(state, params, modules=rule)
    assert len(table) == expected
    assert all(np.isfinite(row.score) for row in table)
    assert min(row.ratio for row in table) < 1 < max(row.ratio for row in table)


@with_their_code
def test_tunix_peft_trainer() -> None:
    llama = pytest.importorskip(
        "tunix.models.llama3.model", reason="google-tunix is not installed: `make test-clients`"
    )
    peft_trainer = importlib.import_module("tunix.sft.peft_trainer")

    config = llama.ModelConfig(
        num_layers=LAYERS, vocab_size=VOCABULARY, embed_dim=WIDTH, hidden_dim=HIDDEN, num_heads=HEADS, head_dim=32,
        num_kv_heads=2, rope_theta=10_000, norm_eps=1e-5,
    )  # fmt: skip
    model, rule = llama.Llama3(config, rngs=nnx.Rngs(0)), CLIENTS["tunix_llama3"].rule
    # Kernels of its MLPs begin as zeros, to be loaded, and would stay so.
    draw = np.random.default_rng(0).standard_normal
    before = jax.tree.map(lambda leaf: jnp.asarray(0.1 * draw(leaf.shape), leaf.dtype), nnx.state(model, nnx.Param))
    nnx.update(model, jax.tree.map(jnp.copy, before))
    training = peft_trainer.TrainingConfig(eval_every_n_steps=100, max_steps=3)
    trainer = peft_trainer.PeftTrainer(model, oad.adamw(1e-3, **decays(rule)), training)

    def model_input(batch: Any) -> dict[str, Any]:
        length = batch.input_tokens.shape[1]
        return {
            "input_tokens": batch.input_tokens,
            "input_mask": batch.input_mask,
            "positions": jnp.broadcast_to(jnp.arange(length), batch.input_tokens.shape),
            "attention_mask": jnp.tril(jnp.ones((1, length, length), bool)),
        }

    batch = peft_trainer.TrainingInput(input_tokens=TOKENS, input_mask=np.ones_like(TOKENS))
    trainer.with_gen_model_input_fn(model_input).train([batch] * 3)
    params = nnx.state(model, nnx.Param)
    check(trainer.optimizer.opt_state, params, rule, 7 * LAYERS)
    leaves = zip(oad.leaf_records(params, rule), jax.tree.leaves(before), jax.tree.leaves(params), strict=True)
    assert [record.name for record, old, new in leaves if not (old != new).any()] == []


def _llama(llama: Any, haliax: Any) -> Any:
    config = llama.LlamaConfig(
        seq_len=16, hidden_dim=WIDTH, intermediate_dim=HIDDEN, num_layers=LAYERS, num_heads=HEADS, head_dim=32,
        num_kv_heads=2,
    )  # fmt: skip
    return llama.LlamaLMHeadModel.init(haliax.Axis("vocab", VOCABULARY), config, key=jax.random.key(0))


@with_their_code
def test_levanter_optimizer_config() -> None:
    pytest.importorskip("levanter", reason="levanter is not installed: `make test-clients`")
    import haliax  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from levanter.models import llama  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from levanter.optim import OptimizerConfig  # type: ignore[import-not-found, import-untyped, unused-ignore]

    @OptimizerConfig.register_subclass("alphadecay")
    @dataclasses.dataclass(frozen=True)
    class AlphaDecayConfig(OptimizerConfig):  # type: ignore[misc, unused-ignore]
        refresh_every: int = 2

        def build(self, num_train_steps: int) -> optax.GradientTransformation:
            def optimizer(learning_rate: Any) -> optax.GradientTransformation:
                return oad.adamw(learning_rate, self.weight_decay, refresh_every=self.refresh_every, metric=METRIC)

            return optax.inject_hyperparams(optimizer)(learning_rate=self.lr_scheduler(num_train_steps))

    model = _llama(llama, haliax)
    optimizer = OptimizerConfig.get_choice_class("alphadecay")(learning_rate=1e-3).build(100)
    params = eqx.filter(model, eqx.is_inexact_array)
    batch, position = haliax.Axis("batch", 2), haliax.Axis("position", 12)
    tokens = haliax.named(jnp.asarray(TOKENS), (batch, position))

    @eqx.filter_jit
    def step(model: Any, state: Any) -> tuple[Any, Any]:
        @eqx.filter_grad
        def gradient(model: Any) -> jax.Array:
            logits = model(tokens, key=None).array
            return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens.array[:, 1:]).mean()

        updates, state = optimizer.update(gradient(model), state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    state = optimizer.init(params)
    for _ in range(3):
        model, state = step(model, state)
    check(state, params, None, 7 * LAYERS)
    table = oad.module_table(state, params)
    blocks = {oad.transformer_block(row.name) for row in table}
    assert blocks == {("transformer", "layers", str(layer)) for layer in range(LAYERS)}


def test_linen_train_state() -> None:
    rule = CLIENTS["linen_attention"].rule
    params = models.in_linen(scanned=False).init(LAYERS)
    transformer = models.LinenTransformer(LAYERS, scanned=False)
    state = TrainState.create(apply_fn=transformer.apply, params=params, tx=oad.adamw(1e-3, **decays(rule)))

    @jax.jit
    def step(state: TrainState) -> TrainState:
        gradients = jax.grad(lambda params: models.loss_of(state.apply_fn(params, models.TOKENS)))(state.params)
        return state.apply_gradients(grads=gradients)

    check(step(step(state)).opt_state, params, rule, 6 * LAYERS)


def test_nnx_optimizer() -> None:
    rule = CLIENTS["nnx_attention"].rule
    model = models.NnxTransformer(LAYERS, scanned=True)
    optimizer = nnx.Optimizer(model, oad.adamw(1e-3, **decays(rule)), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> None:
        optimizer.update(model, nnx.grad(lambda model: models.loss_of(model(models.TOKENS)))(model))

    step(model, optimizer)
    check(optimizer.opt_state, nnx.state(model, nnx.Param), rule, 6 * LAYERS)


def test_equinox() -> None:
    rule = oad.block_matrices(stacked=["layers"])
    params = models.in_equinox(scanned=True).init(LAYERS)
    assert all(record.error is None for record in oad.leaf_records(params, rule))
    _, state = models.in_equinox(scanned=True).train(params, oad.adamw(1e-3, **decays(rule)))
    check(state, params, rule, 6 * LAYERS)


def test_haiku_convolutions() -> None:
    def network(x: jax.Array) -> jax.Array:
        x = jax.nn.relu(hk.Conv2D(64, 3)(x))
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(hk.Conv2D(64, 3)(x), is_training=True))
        return hk.Linear(64, name="classifier")(hk.Linear(96)(x.mean((1, 2))))

    transformed, images = hk.transform_with_state(network), jnp.ones((2, 4, 4, 8))
    params, extra = jax.jit(transformed.init)(jax.random.key(0), images)
    rule = oad.modules_for("convolutions")
    optimizer = oad.adamw(1e-3, **decays(rule))

    def loss(params: Any) -> jax.Array:
        return jnp.sum(transformed.apply(params, extra, None, images)[0] ** 2)

    gradients = jax.jit(jax.grad(loss))(params)
    _, state = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    check(state, params, rule, 3)
    shapes = {row.name: row.shape for row in oad.module_table(state, params, modules=rule)}
    assert shapes == {"conv2_d/w": (72, 64), "conv2_d_1/w": (576, 64), "linear/w": (64, 96)}
