"""What is measured besides attacks: certificates, queries, the EOT curve, explanations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from art.utils import to_categorical

from art_sensreg.attacks.base.predictions import predicted_labels
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.attacks.builders import pgd, square
from art_sensreg.benchmark.config.settings import FILE_RECIPE, RECIPES
from art_sensreg.benchmark.config.threat_models import NORMS, allowed
from art_sensreg.benchmark.defences.from_art.postprocessing import counted_queries
from art_sensreg.benchmark.defences.registry import ADVERSARIALLY_TRAINED
from art_sensreg.benchmark.defences.spec import Certificate
from art_sensreg.benchmark.defences.train_spec import NotApplicable
from art_sensreg.benchmark.engine.context import TrainedRun
from art_sensreg.benchmark.engine.runtime import attempt, quiet
from art_sensreg.benchmark.engine.target import Target
from art_sensreg.benchmark.results.entries import (
    AttackRecord,
    CertifiedRecord,
    CurvePoint,
    ExplanationRecord,
    NotCounted,
    QueryCounts,
    share_of,
)
from art_sensreg.benchmark.results.examples import Examples, write_examples
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.interpret import ExplanationConfig, explain, saliency_picture
from art_sensreg.utils.rng import seed_everything
from art_sensreg.utils.stats import wilson_interval
from art_sensreg.utils.text import error_text

# Draws that the attacker averages, in the curve of a random model.
_DRAWS = (1, 4, 16, 64)
_CURVE_STEPS = {"smoke": 10, "quick": 20, "full": 100}
# Square's iterations, and the images that it attacks, to count its queries.
_QUERIES = {"smoke": (100, 30), "quick": (500, 50), "full": (5000, 200)}
# Images that are shown before and after an attack, and its steps.
_SHOWN, _EXAMPLE_STEPS = 6, 20
_EXPLAINED = {"smoke": 20, "quick": 50, "full": 200}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """
    What an evaluation found.

    :param value: Its entry of the run's record.
    :param notes: What a reader of the report must know.
    :param attacks: Attacks that were made for it, which count in the worst case.
    """

    value: Any
    notes: tuple[str, ...] = ()
    attacks: tuple[AttackRecord, ...] = field(default=())


def evaluate_run(run: TrainedRun, interpret: bool = False) -> None:
    """Measure and store what is not yet stored of what a defence calls for; then raise the first failure, if any."""
    defence = run.defence
    wanted: dict[str, Callable[[], Finding] | None] = {
        "certified": None if defence.certificate is None else partial(_certified, run, defence.certificate),
        "queries": None if defence.postprocessing is None else partial(_queries, run),
        "eot_curve": None if defence.random is None else partial(_eot_curve, run),
        "explanations": partial(_explanations, run) if interpret else None,
        "examples": partial(_examples, run) if run.seed == 0 and run.target.attackable(1) else None,
    }
    failures = []
    for entry, evaluate in wanted.items():
        record = run.record
        if evaluate is None or getattr(record, entry) is not None:
            continue
        finding, error = attempt(evaluate)
        if finding is None:
            failures.append(error)
            continue
        notes = tuple(dict.fromkeys((record.notes or ()) + finding.notes))  # a resumed run may find the same again
        changes = {entry: finding.value, "notes": notes or None}
        run.suite.store.put(replace(record.with_attacks(finding.attacks), **changes))
    for error in failures:
        assert error is not None
        raise error


def _certified(run: TrainedRun, certificate: Certificate) -> Finding:
    """The share of the images that are provably correct at each size."""
    settings, dataset = run.suite.settings, run.suite.dataset
    sizes = [eps for threat in settings.threats if threat.norm == certificate.norm for eps in threat.eps]
    if certificate.sizes is not None:  # those of the run may all be out of its reach
        sizes = sorted({*sizes, *certificate.sizes(run.options)})
    elif not sizes:
        sizes = list(RECIPES.get(settings.dataset, FILE_RECIPE).eps[certificate.norm])
    n = min(certificate.points[settings.budget], len(dataset.x_test))
    x, y = dataset.x_test[:n], dataset.y_test[:n]
    spec, model = run.suite.training_spec(run.seed), run.target.model.model
    records = []
    for eps in sizes:
        seed_everything("certificate", run.seed, eps)
        try:
            with quiet():
                certified = certificate.certify(spec, model, x, y, eps, run.options)
        except NotApplicable as reason:
            return Finding(value=(), notes=(f"not certified: {reason}",))
        low, high = wilson_interval(int(certified.sum()), len(certified))
        records.append(
            CertifiedRecord(
                norm=certificate.norm,
                eps=eps,
                accuracy=float(certified.mean()),
                ci_low=low,
                ci_high=high,
                n=len(certified),
            )
        )
    return Finding(value=tuple(records))


def _queries(run: TrainedRun) -> Finding:
    """The queries of Square until it has found what it searches for, with and without the defence."""
    threat, dataset = run.suite.settings.threats[0], run.suite.dataset
    steps, most = _QUERIES[run.suite.settings.budget]
    reason = ATTACKS["square"].refusal(threat.norm, dataset.input_shape)
    if reason is not None:
        return Finding(value=NotCounted(), notes=(f"no queries counted: square {reason}",))
    chosen = np.flatnonzero(run.clean)[:most]
    if not len(chosen):
        return Finding(value=NotCounted())
    images = dataset.x_test[chosen], dataset.y_test[chosen]
    mean, left = _square(run, run.target.default, *images, steps)
    undefended_mean, undefended_left = _square(run, run.target.model, *images, steps)
    return Finding(
        value=QueryCounts(
            attack="square",
            norm=threat.norm,
            eps=threat.eps[0],
            n=len(chosen),
            steps=steps,
            mean=mean,
            robust_accuracy=left,
            undefended_mean=undefended_mean,
            undefended_robust_accuracy=undefended_left,
        )
    )


def _square(
    run: TrainedRun, classifier: SensRegClassifier, x: np.ndarray, y: np.ndarray, steps: int
) -> tuple[float, float]:
    """Queries an image, and the share of the images that are left."""
    threat = run.suite.settings.threats[0]
    eps = threat.eps[0]
    seed_everything("queries", run.seed)
    attack = square(classifier, NORMS[threat.norm], eps, {"max_iter": steps})
    with quiet(), counted_queries(classifier) as queries:
        x_adv = attack.generate(x, y=to_categorical(y, run.suite.dataset.nb_classes))
    if classifier is run.target.default:
        correct = run.target.score(x_adv, y, seed=0).correct
    else:
        correct = predicted_labels(classifier, x_adv) == y
    return queries.count / len(x), float((correct | ~allowed(x, x_adv, threat.norm, eps)).mean())


def _eot_curve(run: TrainedRun) -> Finding:
    """Robust accuracy against PGD that averages more and more draws, scored with fresh ones."""
    settings = run.suite.settings
    threat = settings.threats[0]
    x, y = run.images()
    labels = to_categorical(y, run.suite.dataset.nb_classes)
    spec, module = run.suite.training_spec(run.seed), run.target.random.eot.model
    steps = {"max_iter": _CURVE_STEPS[settings.budget], "restarts": 1}
    points, attacks = [], []
    for eps in threat.eps:
        for samples in _DRAWS:
            start = time.perf_counter()
            attacked = spec.classifier(EOT(module, samples=samples))
            seed_everything("curve", run.seed, eps, samples)
            with quiet():
                x_adv = pgd(attacked, NORMS[threat.norm], eps, steps).generate(x, y=labels)
            correct = run.target.score(x_adv, y, seed=samples).correct
            robust = run.clean[: len(x)] & (correct | ~allowed(x, x_adv, threat.norm, eps))
            points.append(CurvePoint(norm=threat.norm, eps=eps, samples=samples, **share_of(robust)))
            name = f"pgd-eot-{samples}"
            attacks.append(_attack_record(run, (name, threat.norm, eps), robust, time.perf_counter() - start))
    return Finding(value=tuple(points), attacks=tuple(attacks))


def _attack_record(run: TrainedRun, key: tuple[str, str, float], robust: np.ndarray, seconds: float) -> AttackRecord:
    name, norm, eps = key
    whole, attacked = np.zeros((2, len(run.suite.dataset.x_test)), dtype=bool)
    whole[: len(robust)], attacked[: len(robust)] = robust, True
    return AttackRecord(
        attack=name,
        norm=norm,
        eps=eps,
        status="ok",
        robust_accuracy=float(robust.mean()),
        n=len(robust),
        seen=int(run.clean.sum()),
        seconds=seconds,
        mask=run.suite.store.write_mask(run.mask_name(name, norm, eps), whole, attacked),
    )


def _explanations(run: TrainedRun) -> Finding:
    """How readable the explanations of the first test images are."""
    n = run.target.attackable(_EXPLAINED[run.suite.settings.budget])
    x, y = run.suite.dataset.x_test[:n], run.suite.dataset.y_test[:n]
    # Every draw of a random model is a pass of its own.
    effort = {} if run.target.random is None else {"steps": 8, "samples": 4}
    scores = explain(run.target.with_gradients, x, y, ExplanationConfig(seed=run.seed, **effort))
    return Finding(value=tuple(ExplanationRecord(**asdict(score)) for score in scores))


def _examples(run: TrainedRun) -> Finding:
    """The images that the page shows; that there are none is no reason to lose a run."""
    name, error = attempt(partial(_stored_examples, run))
    return Finding(value=name, notes=() if error is None else (f"no images are shown: {error_text(error)}",))


def _stored_examples(run: TrainedRun) -> str:
    """The first test images before and after PGD at the middle size of the first norm, and how they are classified."""
    threat = run.suite.settings.threats[0]
    eps = threat.eps[len(threat.eps) // 2]
    x, y = run.images(_SHOWN)
    seed_everything("examples", run.seed)
    with quiet():
        attack = pgd(run.target.with_gradients, NORMS[threat.norm], eps, {"max_iter": _EXAMPLE_STEPS, "restarts": 1})
        x_adv = attack.generate(x, y=to_categorical(y, run.suite.dataset.nb_classes)).astype(np.float32)
        found = [run.target.with_gradients.predict(images) for images in (x, x_adv)]
    images = Examples(norm=threat.norm, eps=eps, steps=_EXAMPLE_STEPS, x=x, x_adv=x_adv, y=y, logits=np.stack(found))
    name = f"examples/{run.name}-seed{run.seed}.npz"
    if run.suite.store.writes:
        write_examples(run.suite.store.out, name, images)
    return name


def draw_saliency(targets: Mapping[str, Target | None], x: np.ndarray, y: np.ndarray, path: Path) -> None:
    """Draw images with the saliency maps of the undefended, an adversarially trained and the SR+JR model."""
    models = {name: target.model for name, target in targets.items() if target is not None}
    adversarial = [name for name in ADVERSARIALLY_TRAINED if name in models][:1]
    chosen = {name: models[name] for name in ("none", *adversarial, "sr+jr") if name in models}
    if chosen:
        saliency_picture(chosen, x, y, path)
