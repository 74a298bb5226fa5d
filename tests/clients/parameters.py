"""Parameters of the models that ready rules know, as the frameworks themselves make them, and the rule for each."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

import optax_alphadecay as oad
from tests.library import framework_models as models

WIDTH, HEADS, HIDDEN, LAYERS, VOCABULARY = 64, 4, 96, 2, 128
MAXTEXT = (
    "https://github.com/AI-Hypercomputer/maxtext/blob/022d0e12f2529db8cfd6b6f002f85416698204f0/src/maxtext/layers/"
)


@dataclasses.dataclass(frozen=True)
class Client:
    """A model, and the rule that its users pass as ``modules``."""

    params: Callable[[], Any]
    """Makes the parameters, or their shapes and dtypes."""
    rule: Any
    code: str
    """The rule as they write it."""
    packages: tuple[str, ...] = ()
    """What must be installed, besides what every test needs."""
    source: str = ""
    """Where names and shapes were read, if the package is not installed."""


def client(code: str, *packages: str, source: str = "") -> Callable[[Callable[[], Any]], Client]:
    """Makes a client of a function that makes parameters."""
    rule = eval(
        code, {"oad": oad, "MuonDimensionNumbers": importlib.import_module("optax.contrib").MuonDimensionNumbers}
    )
    return lambda params: Client(params, rule, code, packages, source)


def shapes(tree: Any) -> Any:
    """Tuples as float32 arrays of that shape."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=lambda node: isinstance(node, tuple)
    )


@client('oad.modules_for("flax")')
def linen_attention() -> Any:
    """Flax linen, a layer after the other."""
    return jax.eval_shape(lambda: models.in_linen(scanned=False).init(LAYERS))


@client('oad.modules_for("flax", stacked={"layers": 1})')
def linen_scan_axis_1() -> Any:
    """Flax linen, layers scanned on axis 1."""
    scan = linen.scan(models.LinenBlock, {"params": 1}, split_rngs={"params": True}, length=LAYERS)

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return scan(name="layers")(linen.Embed(VOCABULARY, WIDTH)(x), None)[0]

    return jax.eval_shape(Model().init, jax.random.key(0), jnp.ones((1, 3), int))


@client('oad.modules_for("flax", stacked=["layers"])')
def nnx_attention() -> Any:
    """Flax NNX, layers scanned on axis 0."""
    return nnx.eval_shape(lambda: nnx.state(models.NnxTransformer(LAYERS, scanned=True), nnx.Param))


@client('oad.modules_for("convolutions")')
def convolutions() -> Any:
    """Flax linen, a small residual network."""

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = linen.Conv(64, (7, 7), name="conv_init")(x)
            for _ in range(2):
                x = x + linen.Conv(64, (3, 3))(linen.GroupNorm(8)(linen.Conv(64, (1, 1))(x)))
            return linen.Dense(10, name="classifier")(x.mean((1, 2)))

    return jax.eval_shape(Network().init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))


def maxtext_layers(mlp: Any) -> Any:
    """A decoder of MaxText with layers scanned on axis 1, its default."""
    norm = {"scale": (WIDTH, LAYERS)}
    attention = {
        "query": {"kernel": (WIDTH, LAYERS, HEADS, 32)},
        "key": {"kernel": (WIDTH, LAYERS, 2, 32)},
        "value": {"kernel": (WIDTH, LAYERS, 2, 32)},
        "out": {"kernel": (HEADS, LAYERS, 32, WIDTH)},
    }
    layers = {
        "pre_self_attention_layer_norm": norm,
        "post_self_attention_layer_norm": norm,
        "self_attention": attention,
    }
    decoder = {
        "layers": layers | mlp,
        "decoder_norm": {"scale": (WIDTH,)},
        "logits_dense": {"kernel": (WIDTH, VOCABULARY)},
    }
    return shapes({"params": {"token_embedder": {"embedding": (VOCABULARY, WIDTH)}, "decoder": decoder}})


@client('oad.modules_for("maxtext")', source=f"{MAXTEXT}linears.py")
def maxtext_llama() -> Any:
    """MaxText, decoder_block llama2."""
    up, down = {"kernel": (WIDTH, LAYERS, HIDDEN)}, {"kernel": (HIDDEN, LAYERS, WIDTH)}
    return maxtext_layers({"mlp": {"wi_0": up, "wi_1": up, "wo": down}})


@client('oad.modules_for("maxtext")', source=f"{MAXTEXT}moe.py")
def maxtext_mixtral() -> Any:
    """MaxText, decoder_block mixtral: experts before layers."""
    up, down = (3, LAYERS, WIDTH, HIDDEN), (3, LAYERS, HIDDEN, WIDTH)
    return maxtext_layers({"MoeBlock_0": {"gate": {"kernel": (WIDTH, LAYERS, 3)}, "wi_0": up, "wi_1": up, "wo": down}})


@client('oad.modules_for("tunix")', "tunix")
def tunix_llama3() -> Any:
    """Tunix, LLaMA 3."""
    model = importlib.import_module("tunix.models.llama3.model")
    config = model.ModelConfig(
        num_layers=LAYERS, vocab_size=VOCABULARY, embed_dim=WIDTH, hidden_dim=HIDDEN, num_heads=HEADS, head_dim=32,
        num_kv_heads=2, rope_theta=10_000, norm_eps=1e-5,
    )  # fmt: skip
    return nnx.eval_shape(lambda: nnx.state(model.Llama3(config, rngs=nnx.Rngs(0)), nnx.Param))


@client("oad.block_matrices()", "levanter", "haliax")
def levanter_llama() -> Any:
    """Levanter, LLaMA with Haliax's named axes and stacked layers."""
    llama, haliax = (importlib.import_module(name) for name in ("levanter.models.llama", "haliax"))
    config = llama.LlamaConfig(
        seq_len=16, hidden_dim=WIDTH, intermediate_dim=HIDDEN, num_layers=LAYERS, num_heads=HEADS, head_dim=32,
        num_kv_heads=2,
    )  # fmt: skip
    return _levanter(llama.LlamaLMHeadModel, config, haliax)


@client("oad.block_matrices()", "levanter", "haliax")
def levanter_gpt2() -> Any:
    """Levanter, GPT-2: its fused kernel has an axis that runs over query, key and value."""
    gpt2, haliax = (importlib.import_module(name) for name in ("levanter.models.gpt2", "haliax"))
    config = gpt2.Gpt2Config(seq_len=16, hidden_dim=WIDTH, num_layers=LAYERS, num_heads=HEADS)
    return _levanter(gpt2.Gpt2LMHeadModel, config, haliax)


def _levanter(model: Any, config: Any, haliax: Any) -> Any:
    import equinox as eqx

    vocabulary = haliax.Axis("vocab", VOCABULARY)
    made = eqx.filter_eval_shape(model.init, vocabulary, config, key=jax.random.key(0))
    return eqx.filter(made, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))


@client('oad.modules_for("gpt2")', "transformers")
def flax_gpt2() -> Any:
    """Hugging Face's Flax GPT-2: kernels are stored as [outputs, inputs]."""
    gpt2 = importlib.import_module("transformers.models.gpt2.modeling_flax_gpt2")
    config = importlib.import_module("transformers").GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS
    )
    tokens = jnp.ones((1, 3), jnp.int32)
    model = gpt2.FlaxGPT2LMHeadModule(config)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, jnp.ones_like(tokens), tokens))["params"]


@client(
    'oad.modules_for("gpt2")',
    source="Names and layout of GPT2LMHeadModel.state_dict() in transformers, as safetensors saves it",
)
def safetensors_gpt2() -> Any:
    """Hugging Face's GPT-2: flat dotted names, kernels [inputs, outputs]."""
    block = {
        "ln_1.weight": (WIDTH,), "ln_1.bias": (WIDTH,), "ln_2.weight": (WIDTH,), "ln_2.bias": (WIDTH,),
        "attn.c_attn.weight": (WIDTH, 3 * WIDTH), "attn.c_attn.bias": (3 * WIDTH,),
        "attn.c_proj.weight": (WIDTH, WIDTH), "attn.c_proj.bias": (WIDTH,),
        "mlp.c_fc.weight": (WIDTH, 4 * WIDTH), "mlp.c_fc.bias": (4 * WIDTH,),
        "mlp.c_proj.weight": (4 * WIDTH, WIDTH), "mlp.c_proj.bias": (WIDTH,),
    }  # fmt: skip
    blocks = {f"transformer.h.{i}.{name}": shape for i in range(LAYERS) for name, shape in block.items()}
    rest = {"transformer.wte.weight": (VOCABULARY, WIDTH), "transformer.wpe.weight": (100, WIDTH)}
    return shapes(rest | blocks | {"transformer.ln_f.weight": (WIDTH,), "lm_head.weight": (VOCABULARY, WIDTH)})


@client('oad.modules_for("flax")', "transformers")
def flax_vit() -> Any:
    """Hugging Face's Flax ViT for image classification."""
    vit = importlib.import_module("transformers.models.vit.modeling_flax_vit")
    config = importlib.import_module("transformers").ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=HIDDEN, image_size=32,
        patch_size=4,
    )  # fmt: skip
    model = vit.FlaxViTForImageClassificationModule(config)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3))))["params"]


@client('oad.modules_for("tunix")', "tunix")
def tunix_qwen3_moe() -> Any:
    """Tunix, Qwen 3 with a mixture of experts."""
    model = importlib.import_module("tunix.models.qwen3.model")
    config = model.ModelConfig(
        num_layers=LAYERS, vocab_size=VOCABULARY, embed_dim=WIDTH, hidden_dim=HIDDEN, num_heads=HEADS, head_dim=32,
        num_kv_heads=2, rope_theta=10_000, norm_eps=1e-5, num_experts=3, num_experts_per_tok=1,
    )  # fmt: skip
    return nnx.eval_shape(lambda: nnx.state(model.Qwen3(config, rngs=nnx.Rngs(0)), nnx.Param))


CLIENTS: dict[str, Client] = {name: value for name, value in globals().items() if isinstance(value, Client)}
