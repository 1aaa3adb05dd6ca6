"""The request for an audit: filled in by the command line, or in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from art_sensreg.benchmark.config.networks import is_own
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import SuiteSettings


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """
    A request for an audit of the weights in a file, of a defence that is trained first, or of the user's own network as
    it is built. Fields that are None follow the run that the file belongs to, or the recipe of the data set.

    :param checkpoint: Weights (safetensors, or what `torch.load` reads with `weights_only`) of `model`; those of a run
        of the suite are audited with its settings, twin and surrogates.
    :param defence: Name of a defence of the suite.
    :param dataset: As in :class:`SuiteRequest`, like `data_dir`, `model`, `activation`, `norm_layer`, `epochs`,
        `train_size`, `device` and `verbose`.
    :param norm: `linf`, `l2` or `l1`.
    :param eps: Perturbation size; None: the middle size of the run or recipe.
    :param points: Number of test images; None: 400, or 128 if quick.
    :param twin: Weights of the same model trained without penalties.
    :param surrogates: Weights of other trained models.
    :param checks: Names of the checks; None for all.
    :param quick: Fewer points, steps and restarts.
    :param seed: Seed of the training and of the audit.
    :param out: Output folder; None: `results/audit-NAME`.
    :raises ValueError: If both of `checkpoint` and `defence` are given; or none of them, and no network of the user's
        own as `model`.

    Example:
    >>> from art_sensreg.benchmark import AuditRequest
    >>> AuditRequest(defence="sr+jr", quick=True).folder.as_posix()
    'results/audit-sr+jr'
    """

    checkpoint: Path | None = None
    defence: str | None = None
    dataset: str | None = None
    data_dir: str | Path | None = None
    model: str | None = None
    activation: str | None = None
    norm_layer: str | None = None
    norm: str | None = None
    eps: float | None = None
    points: int | None = None
    twin: Path | None = None
    surrogates: Sequence[Path] = ()
    checks: Sequence[str] | None = None
    quick: bool = False
    seed: int = 0
    epochs: int | None = None
    train_size: int | None = None
    device: str = "auto"
    out: Path | None = None
    verbose: bool = True

    def __post_init__(self) -> None:
        given = sum(value is not None for value in (self.checkpoint, self.defence))
        if given == 2 or (given == 0 and not self.own):
            raise ValueError("expected one of `checkpoint` and `defence`, or a `model` of your own (FILE.py:FUNCTION)")

        if self.epochs is not None and self.defence is None:
            raise ValueError(
                "`--epochs` was given without `--defence`, which alone is trained; expected both, or neither"
            )

    @property
    def own(self) -> bool:
        """Whether the network is the user's own."""
        return self.model is not None and is_own(self.model)

    @property
    def folder(self) -> Path:
        """Output folder."""
        own = Path(str(self.model)).name.replace(":", "-")
        name = self.defence or (own if self.checkpoint is None else self.checkpoint.stem)
        return self.out or Path("results") / f"audit-{name}"

    def suite_request(
        self, defences: Sequence[str], out: Path, stored: SuiteSettings | None = None, test_size: int | None = None
    ) -> SuiteRequest:
        """
        The corresponding request to the suite; fields that are not given take the settings of a stored run, whose
        options and images are those of the audit too.
        """
        norms, eps = ("linf",), None
        if stored is not None and len(stored.threats) == 1:
            norms, eps = (stored.threats[0].norm,), (stored.threats[0].eps,)
        if self.norm and (self.norm,) != norms:
            norms, eps = (self.norm,), None
        taken = ("dataset", "model", "activation", "norm_layer", "epochs", "train_size")
        values = {name: getattr(self, name) or getattr(stored, name, None) for name in taken}
        if stored is not None:
            values["optimization"], values["validation"] = stored.optimization, stored.validation
            values["options"] = {name: chosen for name, chosen in stored.options.items() if name in defences}
        return SuiteRequest(
            **{name: value for name, value in values.items() if value},
            defences=tuple(defences),
            norms=norms,
            eps=eps,
            test_size=test_size,
            out=out,
            device=self.device,
            data_dir=self.data_dir,
            resume=True,
        )
