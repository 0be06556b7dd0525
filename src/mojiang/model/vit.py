"""Vision Transformer (Dosovitskiy et al. 2021): an encoder over the patches of an image.

Tensor names carry their shape:
    B images · C channels · H height · W width · T positions (the class token, then the patches) · D hidden size
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._encoder import Encoder, check_heads, self_attention
from mojiang.model._layers import Dropout, LayerNorm, Linear, activation
from mojiang.model.network import HFConfig

Size = int | list[int]


@dataclass(frozen=True)
class ViTConfig(HFConfig):
    """The shape of a vision transformer, in the words of its `config.json`."""

    MODEL_TYPE = "vit"
    CLASSES: ClassVar[dict[str, str]] = {
        "image_classification": "ViTForImageClassification",
        "embedding": "ViTModel",
    }

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    """Kept for other readers: attention weights are never materialised here, so that they cannot be dropped."""
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Size = 224
    """Pixels, or [height, width]."""
    patch_size: Size = 16
    num_channels: int = 3
    qkv_bias: bool = True
    pooler_output_size: int | None = None
    """None: `hidden_size`."""
    pooler_act: str = "tanh"
    add_pooling_layer: bool = True
    """Whether a model without a head has the pooler."""

    def check(self) -> None:
        """Refuse unknown activations and patches that do not tile the image."""
        activation(self.hidden_act)
        activation(self.pooler_act)
        check_heads(self.hidden_size, self.num_attention_heads)
        if any(image % patch for image, patch in zip(pair(self.image_size), pair(self.patch_size), strict=True)):
            raise BadInput(
                f"patches of {self.patch_size} pixels do not tile an image of {self.image_size}",
                hint="choose a patch_size that divides image_size",
            )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json`; `add_pooling_layer` is in it only where it says no."""
        config = super().to_hf()
        return {key: value for key, value in config.items() if key != "add_pooling_layer" or not value}


def pair(size: Size) -> tuple[int, int]:
    """(height, width) of a size that is given as one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


class Patches(nn.Module):
    """One vector per patch, a linear projection of its pixels."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        patch = pair(config.patch_size)
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, patches, D), patches row by row."""
        weight, bias = self.projection.weight, self.projection.bias
        assert bias is not None
        dtype = pixels_BCHW.dtype
        y = F.conv2d(pixels_BCHW, weight.to(dtype), bias.to(dtype), self.projection.stride)
        return y.flatten(2).transpose(1, 2)


class Embeddings(nn.Module):
    """The class token and the patches, with learned positions."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        (height, width), (down, across) = pair(config.image_size), pair(config.patch_size)
        num_positions = 1 + (height // down) * (width // across)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, config.hidden_size))
        self.patch_embeddings = Patches(config)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, T, D), in the dtype of the pixels."""
        patches = self.patch_embeddings(pixels_BCHW)
        first = self.cls_token.to(patches.dtype).expand(len(patches), -1, -1)
        x_BTD = torch.cat([first, patches], dim=1) + self.position_embeddings.to(patches.dtype)
        out_BTD: Tensor = self.dropout(x_BTD)
        return out_BTD


class Dense(nn.Module):
    """A projection under the name that files give it."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.dense = Linear(num_inputs, num_outputs, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs)."""
        out: Tensor = self.dense(x)
        return out


class SelfAttention(nn.Module):
    """The three projections and the attention between them."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads, size = config.num_attention_heads, config.hidden_size
        self.query, self.key, self.value = (Linear(size, size, bias=config.qkv_bias) for _ in range(3))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return self_attention(x_BTD, self.query, self.key, self.value, self.num_heads, None)


class Attention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.output = Dense(config.hidden_size, config.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        out_BTD: Tensor = self.output(self.attention(x_BTD))
        return out_BTD


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Dense(config.hidden_size, config.intermediate_size)
        self.output = Dense(config.intermediate_size, config.hidden_size)
        self.layernorm_before = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layernorm_after = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.activation = activation(config.hidden_act)
        self.dropout, self.dropout_out = Dropout(config.hidden_dropout_prob), Dropout(config.hidden_dropout_prob)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Attention and feed-forward, each added to the residual stream."""
        x_BTD = x_BTD + self.dropout(self.attention(self.layernorm_before(x_BTD)))
        y_BTD = self.output(self.activation(self.intermediate(self.layernorm_after(x_BTD))))
        out_BTD: Tensor = x_BTD + self.dropout_out(y_BTD)
        return out_BTD


class Layers(nn.Module):
    """What Hugging Face calls `encoder`."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])


class Pooler(nn.Module):
    """A dense layer over the class token's hidden state."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.pooler_output_size or config.hidden_size, bias=True)
        self.activation = activation(config.pooler_act)

    def forward(self, x_BD: Tensor) -> Tensor:
        """(B, D) → (B, pooler's size)."""
        return self.activation(self.dense(x_BD))


class ViT(Encoder):
    """A vision transformer, with or without a classifier.

    >>> config = ViTConfig(32, 2, 4, 48, image_size=8, patch_size=4, num_labels=3, head="image_classification")
    >>> model = ViT(config).init_weights(seed=0)
    >>> tuple(model.scores(model(torch.zeros(2, 3, 8, 8))).shape)
    (2, 3)
    """

    CONFIG = ViTConfig
    other_heads = ("vit.pooler.", "classifier.")
    prefix = "vit"

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(
            config,
            embeddings=Embeddings(config),
            encoder=Layers(config),
            layernorm=LayerNorm(config.hidden_size, config.layer_norm_eps),
            pooler=Pooler(config) if config.head == "embedding" and config.add_pooling_layer else None,
        )
        if config.head == "image_classification":
            self.classifier = Linear(config.hidden_size, config.num_labels, bias=True)

    def blocks(self) -> list[nn.Module]:
        """The layers, in order."""
        return list(self.trunk.encoder.layer)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Final hidden states (B, T, D) of the class token and the patches, after the last norm.

        Raises:
            BadInput: images of another size or number of channels than the config's.
        """
        expected = (self.config.num_channels, *pair(self.config.image_size))
        if pixels_BCHW.shape[1:] != expected:
            raise BadInput(
                f"an image is {tuple(pixels_BCHW.shape[1:])}; this model reads {expected} (channels, height, width)",
                hint="resize the images to the model's image_size",
            )
        x_BTD = self.trunk.embeddings(pixels_BCHW.to(self.compute_dtype))
        for block in self.blocks():
            x_BTD = block(x_BTD)
        hidden_BTD: Tensor = self.trunk.layernorm(x_BTD)
        return hidden_BTD

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores (B, classes) of images; `mask` is not used, as images are not packed."""
        if self.config.head != "image_classification":
            raise TypeError(f"ViT with head {self.config.head!r} gives no scores")
        scores: Tensor = self.classifier(hidden_BTD[:, 0])
        return scores
