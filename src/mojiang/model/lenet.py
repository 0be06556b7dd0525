"""LeNet-5 (LeCun et al. 1998) as it is taught today: ReLU and max pooling.

The original squashed with a scaled tanh, averaged with trained coefficients, connected only some feature maps of its
third layer and ended in radial basis functions. The sizes are its own: 61,706 weights for ten classes of 28x28 images.

Tensor names carry their shape: B images · C channels · H height · W width · D features
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import Linear
from mojiang.model._sequences import init_parameter
from mojiang.model.network import Head, HFConfig, Network
from mojiang.model.resnet import Conv2d

_CONVOLUTIONS, _HIDDEN = (6, 16), (120, 84)


@dataclass(frozen=True)
class LeNetConfig(HFConfig):
    """The images that a LeNet-5 reads, and the classes (`num_labels`)."""

    MODEL_TYPE: ClassVar[str] = "lenet"
    CLASSES: ClassVar[dict[str, str]] = {"image_classification": "MojiangLeNet"}

    num_channels: int = 1
    image_size: int = 28
    head: Head = field(default="image_classification", kw_only=True)

    def check(self) -> None:
        """Raise `BadInput` for images that two poolings would leave nothing of."""
        if self.image_size < 12:
            raise BadInput(f"image_size is {self.image_size}; LeNet needs 12 or more", hint="enlarge the images")


class LeNet(Network):
    """An image classifier.

    >>> model = LeNet(LeNetConfig(num_labels=10)).init_weights(seed=0)
    >>> hidden_B1D = model(torch.zeros(2, 1, 28, 28))
    >>> tuple(hidden_B1D.shape), tuple(model.scores(hidden_B1D).shape), model.num_parameters()
    ((2, 1, 84), (2, 10), 61706)
    """

    config: LeNetConfig

    def __init__(self, config: LeNetConfig) -> None:
        super().__init__()
        self.config = config
        side = (config.image_size // 2 - 4) // 2
        self.conv1 = Conv2d(config.num_channels, _CONVOLUTIONS[0], 5, padding=2)
        self.conv2 = Conv2d(_CONVOLUTIONS[0], _CONVOLUTIONS[1], 5)
        self.fc1 = Linear(_CONVOLUTIONS[1] * side * side, _HIDDEN[0], bias=True)
        self.fc2 = Linear(_HIDDEN[0], _HIDDEN[1], bias=True)
        self.classifier = Linear(_HIDDEN[1], config.num_labels, bias=True)

    @classmethod
    def from_hf(
        cls, config: dict[str, Any], head: Head = "image_classification", num_labels: int | None = None
    ) -> Self:
        """The network of a `config.json`, with arbitrary weights."""
        return cls(LeNetConfig.from_hf(config, head, num_labels))

    def blocks(self) -> list[nn.Module]:
        """None: no layer is like another, and the whole is smaller than one block of other networks."""
        return []

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Features of each image, (B, 1, D), for normalised pixels.

        Raises:
            BadInput: images of another size or number of channels.
        """
        read = (self.config.num_channels, self.config.image_size, self.config.image_size)
        if pixels_BCHW.shape[1:] != read:
            raise BadInput(
                f"the images are {tuple(pixels_BCHW.shape[1:])}, the model reads {read}",
                hint="convert the images, or train a model for them",
            )
        x_BCHW = F.max_pool2d(F.relu(self.conv1(pixels_BCHW.to(self.compute_dtype))), 2)
        x_BCHW = F.max_pool2d(F.relu(self.conv2(x_BCHW)), 2)
        x_BD = F.relu(self.fc2(F.relu(self.fc1(x_BCHW.flatten(1)))))
        return x_BD[:, None]

    def scores(self, hidden_B1D: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the classes, (B, labels), in fp32."""
        scores: Tensor = self.classifier(hidden_B1D[:, 0].float())
        return scores

    def head_names(self) -> set[str]:
        """The classifier's."""
        return {name for name in self.state_dict() if name.startswith("classifier.")}

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As all networks without attention begin."""
        init_parameter(name, parameter, generator)
