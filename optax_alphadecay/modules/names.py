"""What the name of a leaf says: an embedding, an output head, a norm, a scale or a bias, or nothing of the kind."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Collection

from optax_alphadecay.modules.paths import plain_components

# Names, lower case, of a layer or of a leaf that is a layer's only weight.
EMBEDDING = re.compile(r"(?!.*unembed).*embed.* | .*(^|_)emb(_.*)? | wte | wpe", re.VERBOSE)
OUTPUT_HEAD = re.compile(
    r"(?!multi_?head).*(^|_)head(_?\d+)? | lmhead | .*logits.* | .*unembed.* | classifier | readout", re.VERBOSE
)
NORM = re.compile(r".*norm.* | ln(_.*|\d*)", re.VERBOSE)
BIAS = re.compile(r"(.*_)?(bias|biases)")
_LAYERS = {"an embedding": EMBEDDING, "an output head": OUTPUT_HEAD, "a norm": NORM, "a bias": BIAS}
# Names of a leaf only: what a layer named scale holds may be a matrix.
SCALE = re.compile(r"(.*_)?(scales?|gain|gamma|beta|offset)")
# What is directly above a layer and names an embedding or a head, whatever the layer is called: the projection of
# patch_embeddings, the dense layer of an lm_head. Not text_embedder: it may hold a whole network.
_HOLDERS = {
    "an embedding": re.compile(r".*embed(dings?)?(_\d+)?"),
    "an output head": re.compile(r"(.*_)?(lm|mlm|cls|output|classification)_?head|head|lmhead|classifier|predictions"),
}
# A leaf of such a name is called by its layer. Other leaves name themselves, as q_proj in self_attn/q_proj.
_PARAMETER = re.compile(r"([a-z]|kernel|weights?|param|params|matrix|table|var|w_?\d+|(w_)?lora_[ab](_.*)?)")


def excluded_as(name: str, siblings: Collection[str] = ()) -> str | None:
    """Tell what a leaf is by its name, if that is nothing that can be a module.

    Looked at are the name of the leaf, that of its layer, and for embeddings and heads what directly holds the layer;
    not the containers above them.

    Args:
      name: path of the leaf, joined by slashes.
      siblings: names of the leaves beside it, which tell Haiku's bias ``b`` from a LoRA factor.

    Returns:
      For instance ``"'wte' names an embedding"``, or None.

    Example:
      >>> from optax_alphadecay.modules.names import excluded_as
      >>> excluded_as("transformer.wte.weight")
      "'wte' names an embedding"
      >>> excluded_as("text_embedder/layers_0/q/kernel")
    """
    called = [component for component in plain_components(name) if component != "~" and not component.isdigit()]
    leaf, *above = called[::-1] or [""]
    if leaf == "b" and ("~" in plain_components(name) or ("w" in siblings and "a" not in siblings)):
        return "'b' names a bias, as Haiku's do"
    if SCALE.fullmatch(leaf.lower()):
        return f"{leaf!r} names a scale"
    is_parameter = bool(_PARAMETER.fullmatch(leaf.lower()))
    layers = called[::-1][: 2 if is_parameter else 1]
    for what, pattern in _LAYERS.items():
        if named := next((name for name in layers if pattern.fullmatch(name.lower())), None):
            return f"{named!r} names {what}"
    holder = above[1 if is_parameter else 0 :][:1]
    for what, pattern in _HOLDERS.items():
        if holder and pattern.fullmatch(holder[0].lower()):
            return f"{holder[0]!r} names {what}"
    return None
