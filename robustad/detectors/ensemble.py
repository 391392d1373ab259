"""Several memory banks as one detector, whose disagreement says how unsure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from robustad._batching import runs
from robustad.detectors.anomaly_dino import AnomalyDINO
from robustad.detectors.anomaly_dino_config import AnomalyDINOConfig
from robustad.detectors.base import Detector
from robustad.detectors.pruning import spacing
from robustad.errors import InputError, NotFittedError
from robustad.geometry import Geometry
from robustad.images import iter_images
from robustad.ops import PackedBank, cosine_nn

if TYPE_CHECKING:
    from robustad.images import Images


class BankEnsembleConfig(BaseModel):
    """Options of `BankEnsemble`, as saved; see there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: list[AnomalyDINOConfig] = Field(min_length=1)
    banks: int = Field(ge=1)
    seed: int
    top_fraction: int | float
    map_sigma: float


class BankEnsemble(Detector):
    """The mean over several memory banks: bootstrapped, of several layers, or of several backbones.

    Parameters
    ----------
    views : sequence of AnomalyDINO
        Each a backbone (and its layers) with its options, of one `image_size` and `square`; fitted
        by `fit` of the ensemble. Patch scores are brought to the finest of their grids.
    banks : int >= 1, default 1
        Banks a view. With several, each is a bootstrap sample of the view's vectors: as many are
        drawn with replacement as there are, so that each bank lacks about 37% of them. One is all
        of them.
    seed : int, default 0
        Of the samples.
    top_fraction : float or int, default 0.01
        See `Detector`.
    map_sigma : float, default 4
        See `Detector`.

    Attributes
    ----------
    views : ModuleList of AnomalyDINO
        As given. Their own image scores and verdicts are not used.

    Raises
    ------
    InputError
        If an option is out of range, or the views differ in image size.

    Notes
    -----
    Members of different views are brought to one scale before the mean is taken: the mean distance
    of a view's bank vectors to the nearest other one, which is how far apart normal patches lie in
    its features. `spread` is how far the members' image scores are apart. It is one number that
    an attacker can hold down as well, see docs/defences.md.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(0, 50, (2, 64, 64, 3), dtype=np.uint8)
    >>> detector = BankEnsemble([AnomalyDINO("filters", image_size=64)], banks=4).fit(normal)
    >>> detector.member_scores(detector.prepare(normal)).shape
    torch.Size([4, 2])
    """

    method: ClassVar[str] = "bank_ensemble"
    scale: Tensor

    def __init__(
        self,
        views: Sequence[AnomalyDINO],
        *,
        banks: int = 1,
        seed: int = 0,
        top_fraction: float | int = 0.01,
        map_sigma: float = 4.0,
    ) -> None:
        if not views:
            raise InputError("views: expected at least one, got none")
        if banks < 1:
            raise InputError(f"banks: expected >= 1, got {banks}")
        for place, view in enumerate(views):
            if not isinstance(view, AnomalyDINO):
                raise InputError(
                    f"views: expected AnomalyDINO, view {place} is a {type(view).__name__}"
                )
        shapes = {(v.config().image_size, v.geometry.square) for v in views}
        if len(shapes) > 1:
            raise InputError(
                f"views: expected one image_size and square for all, got {sorted(shapes)}"
            )
        image_size, square = next(iter(shapes))
        multiple = math.lcm(*(view.backbone.multiple for view in views))
        if image_size < multiple:
            raise InputError(
                f"views: expected an image_size of at least {multiple} pixels, which all their "
                f"patches fit into, got {image_size}"
            )
        geometry = Geometry(
            size=image_size - image_size % multiple, multiple=multiple, square=square
        )
        super().__init__(geometry=geometry, top_fraction=top_fraction, map_sigma=map_sigma)
        for view in views:
            view.geometry = geometry  # all see the same pixels
        self.views = nn.ModuleList(views)
        self.banks, self.seed = banks, seed
        self._packed: tuple[Any, list[list[PackedBank]]] | None = None
        self.register_buffer("scale", torch.ones(len(views)))
        for name in self._row_names():
            self.register_buffer(name, torch.empty(0, dtype=torch.int64))
        self.eval()

    def fit(self, images: Images, *, progress: bool = False) -> Self:
        """Fit every view and draw its banks.

        Parameters
        ----------
        images : path, folder, PIL image, array, tensor, or an iterable of these
            Normal images.
        progress : bool, default False
            Show progress bars.

        Returns
        -------
        BankEnsemble
            Itself. What was calibrated before is dropped.

        Raises
        ------
        InputError
            If there is no image, one cannot be read, or a bank has fewer than `k` vectors.
        """
        given = [image.pixels for image in iter_images(images)]
        for view in self._all():
            view.fit(given, progress=progress)
        drawn = [self._sample(view, place) for place, view in enumerate(self._all())]
        for name, rows in zip(self._row_names(), [r for some in drawn for r in some], strict=True):
            setattr(self, name, rows)
        self.scale = torch.tensor(
            [spacing(view.bank) for view in self._all()], device=self.scale.device
        )
        self.forget_calibration()
        return self

    def patch_scores(self, x: Tensor) -> Tensor:
        """Mean patch scores of all members; see `Detector.patch_scores`.

        Returns
        -------
        Tensor, (B, N), float32 >= 0
            In the scale of the views' mean distance.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        return self.member_patch_scores(x).mean(dim=0)

    def member_patch_scores(self, x: Tensor) -> Tensor:
        """Patch scores (M, B, N) of every member, on one grid and one scale; differentiable."""
        if self._all()[0].bank.shape[0] == 0:
            raise NotFittedError("this ensemble has no memory banks yet: call fit(images) first")
        size = (x.shape[2], x.shape[3])
        found = []
        for place, (view, packed) in enumerate(zip(self._all(), self._banks(), strict=True)):
            features, mask = view.compared(x)
            for bank in packed:
                distances, _ = cosine_nn(features.flatten(0, 1), bank, view.k)
                scores = view.reduced(distances.reshape(*features.shape[:2], -1))
                scores = scores if mask is None else scores * mask
                found.append(self.joined(scores, place, size))
        return torch.stack(found)

    def joined(self, scores: Tensor, place: int, size: tuple[int, int]) -> Tensor:
        """Patch scores (B, n) of one view on the common grid and scale, for images of a size."""
        view = self._all()[place]
        if view.backbone.patch_size != self._finest.backbone.patch_size:
            maps = scores.reshape(scores.shape[0], 1, *view.patch_grid(*size))
            grid = self.patch_grid(*size)
            scores = F.interpolate(maps, grid, mode="bilinear", align_corners=False).flatten(1)
        return scores * (self.scale.mean() / self.scale[place])

    def member_scores(self, x: Tensor) -> Tensor:
        """Image scores (M, B) of every member of prepared images (B, 3, H, W); differentiable."""
        patch = self.member_patch_scores(x)
        return self.aggregate(patch.flatten(0, 1)).reshape(patch.shape[:2])

    def spread(self, x: Tensor) -> Tensor:
        """How far the members disagree on prepared images.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W), floating point in [0, 1]
            Prepared images.

        Returns
        -------
        Tensor, (B,)
            Standard deviation of the members' image scores; differentiable, so that an attack can
            be given it to hold down.

        Raises
        ------
        InputError
            If there is only one member.
        """
        scores = self.member_scores(x)
        if scores.shape[0] < 2:
            raise InputError("spread: needs several members (banks or views), got one")
        return scores.std(dim=0)

    @torch.no_grad()
    def member_interval(self, x: Tensor) -> npt.NDArray[np.float64]:
        """Lowest and highest (B, 2) of the members' image scores, and the ensemble's own.

        No certificate; but `decide(score, interval=...)` takes it, and defers where the members
        are not of one mind about a threshold.
        """
        patch = self.member_patch_scores(x)
        members = self.aggregate(patch.flatten(0, 1)).reshape(patch.shape[:2])
        scores = torch.cat([members, self.aggregate(patch.mean(dim=0))[None]])
        ends = torch.stack([scores.amin(dim=0), scores.amax(dim=0)], dim=1)
        return np.asarray(ends.cpu().numpy(), np.float64)

    @torch.no_grad()
    def predict_spread(self, images: Images, *, batch_size: int = 8) -> npt.NDArray[np.float64]:
        """Spread (B,) of images of any sizes, in the order given; see `spread`."""
        found: list[float] = []
        for batch in runs(self._prepared(images), batch_size, key=lambda one: one[2].shape):
            found += self.spread(self.stack([pixels for _, _, pixels in batch])).tolist()
        if not found:
            raise InputError("images: expected at least one image, got none")
        return np.array(found)

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the finest of the views' grids; see `Detector.patch_grid`."""
        return self._finest.patch_grid(height, width)

    def config(self) -> BankEnsembleConfig:
        """Options as they are saved."""
        return BankEnsembleConfig(
            views=[view.config() for view in self._all()],
            banks=self.banks,
            seed=self.seed,
            top_fraction=self.top_fraction,
            map_sigma=self.map_sigma,
        )

    def saved_tensors(self) -> dict[str, Tensor]:
        """The views' tensors, which rows each bank has, and the scales."""
        tensors = {"scale": self.scale}
        for place, view in enumerate(self._all()):
            own = view.saved_tensors()
            tensors |= {f"view.{place}.{name}": value for name, value in own.items()}
        return tensors | {name: self.get_buffer(name) for name in self._row_names()}

    @classmethod
    def from_config(cls, config: dict[str, object], tensors: dict[str, Tensor]) -> Self:
        """Rebuild a saved ensemble; see `robustad.load`.

        Raises
        ------
        InputError
            If a tensor does not fit.
        """
        options = BankEnsembleConfig.model_validate(config)
        views = []
        for place, view in enumerate(options.views):
            prefix = f"view.{place}."
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            views.append(AnomalyDINO.from_config(view.model_dump(), own))
        made = cls(views, **options.model_dump(exclude={"views"}))
        count = torch.tensor([view.bank.shape[0] for view in views])
        for place, name in enumerate(made._row_names()):
            rows, limit = tensors[name], int(count[place // max(1, made._drawn)])
            inside = rows.dtype == torch.int64 and rows.ndim == 1 and len(rows) > 0
            if not inside or int(rows.min()) < 0 or int(rows.max()) >= limit:
                raise InputError(f"{name}: expected rows 0..{limit - 1} of its bank")
            setattr(made, name, rows)
        scale = tensors["scale"]
        if scale.shape != made.scale.shape or not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise InputError(f"scale: expected {len(views)} positive numbers")
        made.scale = scale
        return made

    @property
    def members(self) -> int:
        """Number of banks, over all views."""
        return self.banks * len(self.views)

    @property
    def _drawn(self) -> int:
        """Banks a view that are samples: none where there is one."""
        return self.banks if self.banks > 1 else 0

    @property
    def _finest(self) -> AnomalyDINO:
        return min(self._all(), key=lambda view: view.backbone.patch_size)

    def _all(self) -> list[AnomalyDINO]:
        return [*self.views]

    def _row_names(self) -> list[str]:
        return [f"rows_{v}_{m}" for v in range(len(self.views)) for m in range(self._drawn)]

    def _sample(self, view: AnomalyDINO, place: int) -> list[Tensor]:
        count = view.bank.shape[0]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + place)
        drawn = [
            torch.unique(torch.randint(count, (count,), generator=generator))
            for _ in range(self._drawn)
        ]
        for rows in drawn:
            if len(rows) < view.k:
                raise InputError(
                    f"k: expected at most the {len(rows)} vectors of a sampled bank, got {view.k}"
                )
        return [rows.to(view.bank.device) for rows in drawn]

    def member_banks(self, place: int) -> list[Tensor]:
        """Bank vectors (m, D) of every member of a view."""
        bank = self._all()[place].bank
        names = [f"rows_{place}_{member}" for member in range(self._drawn)]
        return [bank[self.get_buffer(name)] for name in names] or [bank]

    def _banks(self) -> list[list[PackedBank]]:
        """All banks, packed when they are new or have moved."""
        banks = [view.bank for view in self._all()]
        kept = None if torch.compiler.is_compiling() else self._packed
        if kept is None or any(one is not two for one, two in zip(kept[0], banks, strict=True)):
            members = [self.member_banks(place) for place in range(len(banks))]
            kept = banks, [[PackedBank.of_unit(bank) for bank in some] for some in members]
            if not torch.compiler.is_compiling():
                self._packed = kept
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        """All but the packed banks, which are made of the others."""
        return {**self.__dict__, "_packed": None}
