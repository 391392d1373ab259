"""Everything that determines a training run, apart from the images."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from robustad.foreground import ForegroundConfig
from robustad.networks import NetworkConfig
from robustad.pseudo import PseudoConfig

Precision = Literal["auto", "float32", "bfloat16"]
TrainingObjective = Literal["flip", "bce", "image", "mixed"]


def _ratio(value: Any) -> Any:
    """Read a fraction such as 8/255, which YAML takes for a text; anything else is passed on."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            return value
    return value


Ratio = Annotated[float, BeforeValidator(_ratio)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ScoreConfig(_Section):
    """How patch logits become an image score and a map.

    Attributes
    ----------
    top_k : int >= 1
        The image score is the mean of this many largest patch logits.
    map_sigma : float >= 0
        Gaussian smoothing of the map in pixels.
    map_radius : int or None
        Where the Gaussian is cut, in pixels; None for 4 sigma.
    """

    top_k: int = Field(default=5, ge=1)
    map_sigma: float = Field(default=6.0, ge=0)
    map_radius: int | None = Field(default=7, ge=1)


class AugmentationConfig(_Section):
    """What normal images may be changed by, each time one is drawn; nothing by default.

    The published method changes nothing. What a part looks like under another exposure or the other
    way round is no anomaly either, where the line says so: in MVTec AD's screw, normal test images
    are darker than all others, and a network that never saw that takes it for the anomaly.

    Attributes
    ----------
    brightness : float in [0, 1]
        Largest amount added to or taken from all pixels of an image.
    contrast : float in [0, 1)
        Largest relative change of the distances of pixels to the image's mean.
    flip : bool
        Mirror left to right, top to bottom, both or neither, equally often.
    quarter_turns : bool
        Turn by 0, 90, 180 or 270 degrees, equally often.
    """

    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    flip: bool = False
    quarter_turns: bool = False

    @property
    def nothing(self) -> bool:
        """Whether images stay as they are."""
        return not (self.brightness or self.contrast or self.flip or self.quarter_turns)


class AttackConfig(_Section):
    """The inner loop: how training images are attacked.

    Attributes
    ----------
    eps : float in (0, 1]
        l-infinity radius; a text such as `8/255` will do, also for `step_size`.
    steps : int >= 0
        Gradient steps; 0 trains on clean images alone.
    step_size : float or None
        None for 2.5 eps / steps.
    objective : {"flip", "bce", "image", "mixed"}
        `flip`: mean logit of normal minus of anomalous patches (published); `bce`: the patches'
        class-balanced cross-entropy; `image`: the image score, up for normal images and down for
        others; `mixed`: `flip` for one half of the images, `image` for the other, in turns.
    start : {"zero", "random", "warm"}
        First iterate: the image, a uniform point of the ball, or where this image's last attack
        ended (uniform the first time), that of its pseudo-anomaly apart.
    keep : {"best", "last"}
        Each image's iterate of highest objective (one forward pass more), or the last one.
    mode : {"eval", "train"}
        Mode of the network while it is attacked; `train` has dropout in it.
    clean_epochs, ramp_epochs : float >= 0
        Epochs at the beginning without any attack, and epochs after them in which eps grows to its
        value: what a network learns first on clean images makes attacked training shorter.
    """

    eps: Ratio = Field(default=8 / 255, gt=0, le=1)
    steps: int = Field(default=10, ge=0)
    step_size: Ratio | None = Field(default=None, gt=0)
    objective: TrainingObjective = "flip"
    start: Literal["zero", "random", "warm"] = "random"
    keep: Literal["best", "last"] = "best"
    mode: Literal["eval", "train"] = "eval"
    clean_epochs: float = Field(default=0.0, ge=0)
    ramp_epochs: float = Field(default=0.0, ge=0)

    def strength(self, epoch: float) -> float:
        """Share of eps after `epoch` epochs, in [0, 1]; 0 where images are not attacked at all."""
        if not self.steps or epoch < self.clean_epochs:
            return 0.0
        done = epoch - self.clean_epochs
        return min(1.0, done / self.ramp_epochs) if self.ramp_epochs else 1.0


class LossConfig(_Section):
    """The four-way objective.

    Attributes
    ----------
    reduction : {"balanced", "mean", "sum"}
        Of an image's patch losses. `balanced`: half the mean over normal patches plus half the
        mean over anomalous ones; `sum` is what the published code does.
    normal, adversarial_normal, anomalous, adversarial_anomalous : float >= 0
        Weights of the four terms.
    label_fraction : float in [0, 1)
        A patch is anomalous where more than this share of its pixels is; 0 for any pixel.
    least_contrast : float in [0, 1)
        Anomalous patches that differ less than this from the normal image, on average over their
        pixels and channels, do not count in the patches' cross-entropy: a patch pasted onto its
        like is no anomaly. To the image score's, to attacks and to validation they are anomalous
        all the same.
    image : float >= 0
        Weight of the image score's own cross-entropy, added to each term.
    """

    reduction: Literal["balanced", "mean", "sum"] = "balanced"
    normal: float = Field(default=1.0, ge=0)
    adversarial_normal: float = Field(default=1.0, ge=0)
    anomalous: float = Field(default=1.0, ge=0)
    adversarial_anomalous: float = Field(default=1.0, ge=0)
    label_fraction: float = Field(default=0.0, ge=0, lt=1)
    least_contrast: float = Field(default=0.0, ge=0, lt=1)
    image: float = Field(default=0.0, ge=0)


class RegulariserConfig(_Section):
    """The attention-degree regulariser.

    Attributes
    ----------
    term : {"none", "degree", "kl", "entropy"}
        Added to the loss for each layer, averaged over images, heads and rows. `degree`: one
        minus the soft attention degree over N; `kl`: KL(uniform || attention) (published code);
        `entropy`: KL(attention || uniform), which is log N minus the entropy.
    weight : float >= 0
        Lambda.
    layers : dict of str to float
        Names of attention layers and their own weights. `last` is the body's last block, `last-1`
        the one before it, and so on. Weights of two names for one layer add up.
    delta : float or None
        Threshold of the degree; None for 1 / N.
    tau : float
        Width of the soft count.
    per : {"row", "entry"}
        `entry` divides `kl` by N once more, as the published code's mean over all entries does.
    renormalise : bool
        Whether rows are renormalised after prefix tokens are dropped, for `kl`.
    """

    term: Literal["none", "degree", "kl", "entropy"] = "degree"
    weight: float = Field(default=0.1, ge=0)
    layers: dict[str, float] = Field(default_factory=lambda: {"last": 1.0, "discriminator": 1.0})
    delta: float | None = Field(default=None, ge=0, le=1)
    tau: float = Field(default=0.01, ge=1e-20)
    per: Literal["row", "entry"] = "row"
    renormalise: bool = True


class OptimiserConfig(_Section):
    """AdamW with a cosine schedule.

    Attributes
    ----------
    epochs : int >= 1
        Length of the schedule.
    batch_size : int >= 1
        Normal images a step, over all processes; a step trains on four times as many.
    lr, weight_decay : float
        Of AdamW.
    final_lr : float in [0, 1]
        Share of `lr` that is left at the end of the cosine.
    warmup : float >= 0
        Epochs in which `lr` rises from zero.
    clip : float or None
        Largest norm of the gradient of all parameters.
    ema : float in [0, 1) or None
        Decay a step of an exponential moving average of the weights, which is then what is
        validated and kept.
    repeats : int >= 1
        Times every training image is drawn an epoch, each time with another pseudo-anomaly.
    chunk : int or None
        Images a forward and backward pass, in the attack too; gradients of chunks add up to those
        of the batch, so that this only bounds memory (batch normalisation sees chunks). None
        takes as many as suit the device: all on a GPU, what its caches hold on a CPU.
    """

    epochs: int = Field(default=300, ge=1)
    batch_size: int = Field(default=16, ge=1)
    lr: float = Field(default=8e-4, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    final_lr: float = Field(default=0.0125, ge=0, le=1)
    warmup: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    ema: float | None = Field(default=None, ge=0, lt=1)
    repeats: int = Field(default=1, ge=1)
    chunk: int | None = Field(default=None, ge=1)


class ValidationConfig(_Section):
    """Robust early stopping on held-out normal images and their pseudo-anomalies.

    Attributes
    ----------
    fraction : float in [0, 1)
        Share of the training images held out, at least one; 0, or a category of fewer than four
        images, validates on the training images with other pseudo-anomalies.
    every : int >= 0
        Epochs between validations; 0 for none: the last weights are kept.
    steps : int >= 1
        Of PGD on `image` and on `flip`; the score is each image's worst over both and clean.
    draws : int >= 1
        Pseudo-anomalies a held-out image.
    patience : int or None
        Validations without a better one after which training stops.
    """

    fraction: float = Field(default=0.1, ge=0, lt=1)
    every: int = Field(default=5, ge=0)
    steps: int = Field(default=20, ge=1)
    draws: int = Field(default=2, ge=1)
    patience: int | None = Field(default=10, ge=1)


class TrainingConfig(_Section):
    """A whole training run; `robustad.training.preset` reads the named ones.

    Attributes
    ----------
    preset : str
        Name of the preset it started from, for the record.
    seed : int >= 0
        Of the initial weights, the hold-out, the order of images, pseudo-anomalies, dropout and
        random starts.
    weights : str
        Initial weights of the body; see `robustad.backbones.create`.
    network, score, augmentation, pseudo, foreground, attack, loss, regulariser, optimiser,
    validation
        The parts.
    attack_precision, precision : {"auto", "float32", "bfloat16"}
        Of the inner loop and of the training passes; `auto` is bfloat16 where the hardware has
        matrix units for it.
    compile : bool
        Compile the network with `torch.compile`, for attacks and training passes.
    """

    preset: str = "custom"
    seed: int = Field(default=0, ge=0)
    weights: str = "random"
    network: NetworkConfig = NetworkConfig()
    score: ScoreConfig = ScoreConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    pseudo: PseudoConfig = PseudoConfig()
    foreground: ForegroundConfig = ForegroundConfig()
    attack: AttackConfig = AttackConfig()
    loss: LossConfig = LossConfig()
    regulariser: RegulariserConfig = RegulariserConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    validation: ValidationConfig = ValidationConfig()
    attack_precision: Precision = "auto"
    precision: Precision = "float32"
    compile: bool = False

    @model_validator(mode="after")
    def _some_term(self) -> TrainingConfig:
        loss = self.loss
        weights = [loss.normal, loss.anomalous]
        if self.attack.steps:
            weights += [loss.adversarial_normal, loss.adversarial_anomalous]
        if not any(weights):
            raise ValueError("loss: expected at least one term with a weight above 0")
        return self

    def fingerprint(self) -> dict[str, Any]:
        """JSON of everything that changes the weights."""
        return self.model_dump(mode="json", exclude={"preset"})
