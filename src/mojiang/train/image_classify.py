"""Image classification: ResNet, LeNet or a vision transformer, from scratch or from pre-trained weights."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.train._settings import Compute, Length, Optim, Watch

if TYPE_CHECKING:
    from mojiang.model.network import Network
    from mojiang.train._images import Images


class ImageClassify(Recipe):
    """Train a classifier of images.

    Images of a split have one size. Training images are shifted, mirrored and erased at random, in a way that depends
    on the seed, the epoch and the image only. The output folder has a `preprocessor_config.json`, with which
    `transformers` reads images as they were read here.

    When not to use: for photographs with few labels, where a large pre-trained network is the better start; give it as
    `model`.
    Source: He et al. 2016 (ResNet); LeCun et al. 1998 (LeNet-5); Dosovitskiy et al. 2021 (ViT).
    Example:
        >>> ImageClassify(data="fashion", architecture="lenet", epochs=5, mirror=False).batch_size
        256
    """

    recipe: ClassVar[str] = "train.image_classify"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """Labelled images, with their splits."""
    model: ModelRef | None = None
    """The pre-trained network to fine-tune; left out, one of `architecture` is trained from scratch."""
    architecture: Literal["resnet", "lenet", "vit"] = "resnet"
    """A network from scratch."""
    widths: tuple[int, ...] = (48, 96, 192)
    """ResNet: channels of its stages. ViT: the first is its hidden size."""
    depths: tuple[int, ...] = (1, 1, 1)
    """ResNet: blocks of its stages. ViT: the first is its number of layers."""
    enlarge: int = Field(2, ge=1, le=16)
    """Each pixel becomes so many in height and width; small images need it, as ResNet begins by halving them twice."""
    shift: int = Field(2, ge=0, le=64)
    """Pixels that a training image is shifted by at most."""
    mirror: bool = True
    """Mirror half of the training images; wrong where left and right matter, as for digits."""
    erase: int = Field(0, ge=0, le=512)
    """Side of a square that is erased from each training image."""
    batch_size: int = Field(256, ge=1)
    """Images of an optimizer step."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of each label's weight that is spread over all."""
    length: Length = Length(epochs=10)
    """How long."""
    optim: Optim = Optim(
        optimizer="muon", learning_rate=0.05, embedding_learning_rate=0.005, weight_decay=0.01, beta2=0.999,
        warmup_steps=200, schedule="linear", clip=0.0,
    )  # fmt: skip
    """How a gradient becomes a step."""
    compute: Compute = Compute(compile="off")
    """How the work is done."""
    watch: Watch = Watch(validations=3)
    """What is looked at on the way."""

    @model_validator(mode="after")
    def _shape(self) -> ImageClassify:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"{len(self.widths)} widths and {len(self.depths)} depths; give one of each per stage")
        return self

    def run(self, run: Run) -> Metrics:
        """Read, train, measure the test split, save."""
        from mojiang.train._classification import Classification
        from mojiang.train._images import image_scores, read_images, training_batches, write_preprocessor
        from mojiang.train._session import Job, outcome, save, train

        started = time.monotonic()
        images = read_images(run.input("data").path, self.enlarge)
        model = self._model(run, images)
        objective = Classification(image_scores(images), len(images.labels), images.split("validation"),
                                   self.label_smoothing)  # fmt: skip
        source = training_batches(images, self.batch_size, run.seed, self.shift, self.mirror, self.erase)
        job = Job(
            model, objective, source, source.batch_rows, self.length, self.optim, self._compute(model),
            self.watch.when("validation" in images.splits), started=started,
        )  # fmt: skip
        training, result = train(run, job)
        metrics = outcome(training, result, job)
        metrics |= {"labels": len(images.labels), "examples": len(images.splits["train"])}
        if (test := images.split("test")) is not None:
            found = objective.measure(training.model.eval(), test, training.settings.at_once)
            metrics |= {f"test_{name}": round(value, 5) for name, value in found.items()}
        save(training, None, run)
        write_preprocessor(images, run.out)
        return metrics

    def _compute(self, model: Network) -> Compute:
        """A batch that is normalised as a whole is computed as a whole."""
        from mojiang.core.errors import BadUsage
        from mojiang.train._images import has_batch_norm

        if self.compute.micro is None:
            return self.compute.model_copy(update={"micro": self.batch_size})
        if has_batch_norm(model) and self.compute.micro < self.batch_size:
            raise BadUsage(
                f"micro is {self.compute.micro}, and the network normalises over a whole batch of {self.batch_size}",
                hint="leave micro out, make batch_size smaller, or use architecture vit",
            )
        return self.compute

    def _model(self, run: Run, images: Images) -> Network:
        from dataclasses import replace

        from mojiang.model.load import load_model

        count, labels = len(images.labels), dict(enumerate(images.labels))
        if self.model is not None:
            path = run.input("model").path
            model = load_model(path, device=run.device, head="image_classification", num_labels=count)
        else:
            model = self._from_scratch(images, count).init_weights(run.seed).to(run.device)
        model.config = replace(model.config, id2label=labels)
        if run.device == "cpu":
            # Convolutions on a CPU read channels innermost; 4-dimensional weights only, the others have no such order.
            import torch

            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def _from_scratch(self, images: Images, num_labels: int) -> Any:
        from mojiang.model.lenet import LeNet, LeNetConfig
        from mojiang.model.resnet import ResNet, ResNetConfig
        from mojiang.model.vit import ViT, ViTConfig

        if self.architecture == "lenet":
            return LeNet(LeNetConfig(images.channels, images.side * self.enlarge, num_labels=num_labels))
        if self.architecture == "vit":
            width = self.widths[0]
            side = images.side * self.enlarge
            patch = max(p for p in (2, 4, 7, 8, 14, 16) if side % p == 0 and p <= max(2, side // 7))
            config = ViTConfig(
                hidden_size=width, num_hidden_layers=self.depths[0], intermediate_size=4 * width,
                num_attention_heads=max(1, width // 32), image_size=side, patch_size=patch,
                num_channels=images.channels, head="image_classification", num_labels=num_labels,
            )  # fmt: skip
            return ViT(config)
        return ResNet(ResNetConfig(
            images.channels, min(32, self.widths[0]), self.widths, self.depths, "basic", num_labels=num_labels
        ))  # fmt: skip
