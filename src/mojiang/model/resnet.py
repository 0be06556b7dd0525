"""ResNet (He et al. 2015), v1.5: an image becomes a grid of features, their mean is classified.

Tensor names carry their shape:
    B images · C channels · H height · W width · T positions of the last grid (its height times its width) · D features

Parameter names and the layout are those of `ResNetForImageClassification` of `transformers`, whose stem divides height
and width by four (a convolution and a pooling of stride 2). Images as small as 28x28 are therefore enlarged beforehand
(to 56x56, say), which keeps the folder loadable everywhere; a stem of its own would not. Batch normalisation takes its
statistics from the images computed together: in training, the micro-batch is part of the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import Linear
from mojiang.model.network import Head, HFConfig, Network


@dataclass(frozen=True)
class ResNetConfig(HFConfig):
    """The shape of a ResNet, in the words of a Hugging Face `config.json`; the defaults are ResNet-50."""

    MODEL_TYPE: ClassVar[str] = "resnet"
    CLASSES: ClassVar[dict[str, str]] = {"image_classification": "ResNetForImageClassification"}

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    head: Head = field(default="image_classification", kw_only=True)

    def check(self) -> None:
        """Raise `BadInput` for another activation, kind of layer or head."""
        if self.hidden_act != "relu":
            raise BadInput(f"hidden_act is {self.hidden_act!r}; ResNet computes 'relu'", hint="use a ReLU checkpoint")
        if self.layer_type not in ("basic", "bottleneck"):
            raise BadInput(f"layer_type is {self.layer_type!r}", hint="ResNet has 'basic' and 'bottleneck' layers")
        if len(self.hidden_sizes) != len(self.depths):
            raise BadInput(
                f"{len(self.hidden_sizes)} hidden_sizes for {len(self.depths)} depths", hint="give one per stage"
            )


class Conv2d(nn.Conv2d):
    """A convolution whose fp32 master weight is cast to the input's dtype."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H', W'), in the dtype of `x_BCHW`."""
        bias = None if self.bias is None else self.bias.to(x_BCHW.dtype)
        weight = self.weight.to(x_BCHW.dtype)
        return F.conv2d(x_BCHW, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class ConvNorm(nn.Module):
    """Convolution and batch normalisation (statistics in fp32), then ReLU if `activate`."""

    def __init__(
        self, num_inputs: int, num_outputs: int, kernel: int = 3, stride: int = 1, *, activate: bool = True
    ) -> None:
        super().__init__()
        self.convolution = Conv2d(num_inputs, num_outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(num_outputs)
        self.activate = activate

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H / stride, W / stride)."""
        y_BCHW: Tensor = self.normalization(self.convolution(x_BCHW))
        return F.relu(y_BCHW) if self.activate else y_BCHW


class Block(nn.Module):
    """Residual layer: two 3x3 convolutions, or 1x1 - 3x3 - 1x1 through a bottleneck of a quarter of the width."""

    def __init__(self, config: ResNetConfig, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        changes = num_inputs != num_outputs or stride != 1
        self.shortcut = ConvNorm(num_inputs, num_outputs, 1, stride, activate=False) if changes else nn.Identity()
        if config.layer_type == "basic":
            self.layer = nn.Sequential(
                ConvNorm(num_inputs, num_outputs, stride=stride),
                ConvNorm(num_outputs, num_outputs, activate=False),
            )
        else:
            narrow = num_outputs // 4
            strides = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
            self.layer = nn.Sequential(
                ConvNorm(num_inputs, narrow, 1, strides[0]),
                ConvNorm(narrow, narrow, 3, strides[1]),
                ConvNorm(narrow, num_outputs, 1, activate=False),
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H / stride, W / stride)."""
        return F.relu(self.layer(x_BCHW) + self.shortcut(x_BCHW))


class Embedder(nn.Module):
    """The stem."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.embedder = ConvNorm(config.num_channels, config.embedding_size, 7, 2)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """A quarter of the height and width."""
        return F.max_pool2d(self.embedder(pixels_BCHW), 3, 2, 1)


class Stage(nn.Module):
    """Blocks of one width; the first may halve the grid."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*blocks)


class Encoder(nn.Module):
    """The stages."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        widths = (config.embedding_size, *config.hidden_sizes)
        stages = []
        for n, depth in enumerate(config.depths):
            stride = 2 if n or config.downsample_in_first_stage else 1
            inputs = [widths[n]] + [widths[n + 1]] * (depth - 1)
            strides = [stride] + [1] * (depth - 1)
            stages.append(Stage([Block(config, i, widths[n + 1], s) for i, s in zip(inputs, strides, strict=True)]))
        self.stages = nn.ModuleList(stages)


class Backbone(nn.Module):
    """What Hugging Face calls `resnet.*`."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.embedder = Embedder(config)
        self.encoder = Encoder(config)


class ResNet(Network):
    """An image classifier.

    >>> config = ResNetConfig(1, 8, (8, 16), (1, 1), "basic", num_labels=10)
    >>> model = ResNet(config).init_weights(seed=0)
    >>> hidden_BTD = model(torch.zeros(2, 1, 56, 56))
    >>> tuple(hidden_BTD.shape), tuple(model.scores(hidden_BTD).shape)
    ((2, 49, 16), (2, 10))
    """

    config: ResNetConfig
    prefix = "resnet"

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.resnet = Backbone(config)
        self.classifier = nn.Sequential(nn.Flatten(), Linear(config.hidden_sizes[-1], config.num_labels, bias=True))

    @classmethod
    def from_hf(
        cls, config: dict[str, Any], head: Head = "image_classification", num_labels: int | None = None
    ) -> Self:
        """The network of a `config.json`, with arbitrary weights."""
        # JSON has lists where a frozen config has tuples
        sizes: dict[str, Any] = {name: tuple(config[name]) for name in ("hidden_sizes", "depths") if name in config}
        return cls(ResNetConfig.from_hf({**config, **sizes}, head, num_labels))

    def blocks(self) -> list[nn.Module]:
        """The residual layers of all stages."""
        return [block for stage in self.resnet.encoder.stages for block in stage.get_submodule("layers").children()]

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Features of the last grid, (B, T, D), for normalised pixels.

        Raises:
            BadInput: images with another number of channels.
        """
        if pixels_BCHW.shape[1] != self.config.num_channels:
            raise BadInput(
                f"the images have {pixels_BCHW.shape[1]} channels, the model reads {self.config.num_channels}",
                hint="convert the images, or train a model for them",
            )
        # convolutions are fastest with the channels innermost; the layers keep this layout
        x_BCHW: Tensor = pixels_BCHW.to(self.compute_dtype, memory_format=torch.channels_last)
        x_BCHW = self.resnet.embedder(x_BCHW)
        for block in self.blocks():
            x_BCHW = block(x_BCHW)
        return x_BCHW.flatten(2).mT

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the classes, (B, labels), in fp32; every position counts, so there is no mask to give."""
        scores: Tensor = self.classifier(hidden_BTD.float().mean(1))
        return scores

    @torch.no_grad()
    def init_weights(self, seed: int) -> Self:
        """Initialise in place, the statistics of the normalisations included."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        return super().init_weights(seed)

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """He et al. 2015b for convolutions; each block begins as its shortcut (Goyal et al. 2017)."""
        last = {"basic": 1, "bottleneck": 2}[self.config.layer_type]
        if parameter.dim() == 4:
            fan_out = parameter[:, 0].numel()
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * math.sqrt(2 / fan_out))
        elif name.endswith(f".layer.{last}.normalization.weight"):
            parameter.zero_()
        else:
            super().init_parameter(name, parameter, generator)
