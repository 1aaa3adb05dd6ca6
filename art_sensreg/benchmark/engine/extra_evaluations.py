"""What is measured of a cell beside its attacks: certificates, queries, the EOT curve, explanations, its claim."""

from __future__ import annotations

import time
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
from art_sensreg.benchmark.defences.claims import Claim, judged
from art_sensreg.benchmark.defences.from_art.postprocessing import counted_queries
from art_sensreg.benchmark.defences.registry import DEFENCES, options_of
from art_sensreg.benchmark.defences.spec import Certificate
from art_sensreg.benchmark.defences.train_spec import NotApplicable
from art_sensreg.benchmark.engine.attack_job import Job
from art_sensreg.benchmark.engine.target import Cell
from art_sensreg.benchmark.engine.train import STOPS, quiet, task_of
from art_sensreg.benchmark.results.store import Records
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.utils.rng import seed_everything
from art_sensreg.utils.stats import wilson_interval
from art_sensreg.utils.text import describe

# Draws that the attacker averages, in the curve of a random model.
_DRAWS = (1, 4, 16, 64)
_CURVE_STEPS = {"smoke": 10, "quick": 20, "full": 100}
# Square's iterations, and the images that it is let loose on, to count what it asks for.
_QUERIES = {"smoke": (100, 30), "quick": (500, 50), "full": (5000, 200)}
_EXPLAINED = {"smoke": 20, "quick": 50, "full": 200}
_ADVERSARIAL = ("art-madry", "art-trades-fixed", "art-adversarial", "art-fbf-fixed")


def measure_beside(job: Job, interpret: bool = False) -> None:
    """
    Store what is not yet stored of what a defence calls for.

    :param job: What to do.
    :param interpret: Whether to score the explanations too.
    :raises Exception: The first failure; what did not fail is stored.
    """
    defence, run = DEFENCES[job.run["defence"]], job.run
    wanted = {
        "certified": None if defence.certificate is None else partial(_certified, job, defence.certificate),
        "queries": None if defence.postprocessing is None else partial(_queries, job),
        "eot_curve": None if defence.random is None else partial(_eot_curve, job),
        "explanations": partial(_explanations, job) if interpret else None,
    }
    failures: list[BaseException] = []
    for name, measure in wanted.items():
        if measure is not None and name not in run:
            try:
                run[name] = measure()
            except STOPS:
                raise
            except BaseException as error:  # noqa: BLE001 - one that fails must not take the others with it
                failures.append(error)
    if failures:
        raise failures[0]


def _certified(job: Job, certificate: Certificate) -> list[dict[str, Any]]:
    """The share of the images that are provably right at each size."""
    settings, name, seed = job.settings, job.run["defence"], job.run["seed"]
    task, options = task_of(settings, job.dataset, seed), options_of(settings, name)
    sizes = [eps for threat in settings.threats if threat.norm == certificate.norm for eps in threat.eps]
    if certificate.sizes is not None:  # those of the run may all be out of its reach
        sizes = sorted({*sizes, *certificate.sizes(options)})
    elif not sizes:
        sizes = list(RECIPES.get(settings.dataset, FILE_RECIPE).eps[certificate.norm])
    n = min(certificate.points[settings.budget], len(job.dataset.x_test))
    x, y = job.dataset.x_test[:n], job.dataset.y_test[:n]
    rows = []
    for eps in sizes:
        seed_everything("certificate", seed, eps)
        try:
            with quiet():
                certified = certificate.certify(task, job.cell.model.model, x, y, eps, options)
        except NotApplicable as reason:
            job.run.setdefault("notes", []).append(f"not certified: {reason}")
            return []
        low, high = wilson_interval(int(certified.sum()), len(certified))
        share = float(certified.mean())
        entry = {"accuracy": share, "ci_low": low, "ci_high": high, "n": len(certified)}
        rows.append({"norm": certificate.norm, "eps": eps, **entry})
    return rows


def _queries(job: Job) -> dict[str, Any]:
    """Rows that Square asks for until it has found what it looks for, with and without the defence."""
    threat = job.settings.threats[0]
    eps = threat.eps[0]
    steps, points = _QUERIES[job.settings.budget]
    rows = np.flatnonzero(job.clean)[:points]
    found: dict[str, Any] = {"attack": "square", "norm": threat.norm, "eps": eps, "n": len(rows), "steps": steps}
    reason = ATTACKS["square"].refusal(threat.norm, job.dataset.input_shape)
    if reason is not None:
        job.run.setdefault("notes", []).append(f"no queries counted: square {reason}")
    if not len(rows) or reason is not None:
        return {}
    for prefix, classifier in (("", job.cell.default), ("undefended_", job.cell.model)):
        mean, left = _square(classifier, job, rows, threat.norm, eps, steps)
        found |= {f"{prefix}mean": mean, f"{prefix}robust_accuracy": left}
    return found


def _square(
    classifier: SensRegClassifier, job: Job, rows: np.ndarray, norm: str, eps: float, steps: int
) -> tuple[float, float]:
    x, y = job.dataset.x_test[rows], job.dataset.y_test[rows]
    seed_everything("queries", job.run["seed"])
    attack = square(classifier, NORMS[norm], eps, {"max_iter": steps})
    with quiet(), counted_queries(classifier) as queries:
        x_adv = attack.generate(x, y=to_categorical(y, job.dataset.nb_classes))
    cell = job.cell
    defended = classifier is cell.default
    right = cell.judge(x_adv, y, seed=0).correct if defended else predicted_labels(classifier, x_adv) == y
    return queries.count / len(rows), float((right | ~allowed(x, x_adv, norm, eps)).mean())


def _eot_curve(job: Job) -> list[dict[str, Any]]:
    """Robust accuracy against PGD that averages more and more draws, scored with fresh ones."""
    settings, cell = job.settings, job.cell
    threat = settings.threats[0]
    task = task_of(settings, job.dataset, job.run["seed"])
    n = cell.attackable(len(job.dataset.x_test))
    x, y, clean = job.dataset.x_test[:n], job.dataset.y_test[:n], job.clean[:n]
    labels = to_categorical(y, job.dataset.nb_classes)
    steps = {"max_iter": _CURVE_STEPS[settings.budget], "restarts": 1}
    rows = []
    for eps in threat.eps:
        for samples in _DRAWS:
            start = time.perf_counter()
            attacked = task.classifier(EOT(cell.random.eot.model, samples=samples))
            seed_everything("curve", job.run["seed"], eps, samples)
            with quiet():
                x_adv = pgd(attacked, NORMS[threat.norm], eps, steps).generate(x, y=labels)
            robust = clean & (cell.judge(x_adv, y, seed=samples).correct | ~allowed(x, x_adv, threat.norm, eps))
            low, high = wilson_interval(int(robust.sum()), n)
            entry = {"robust_accuracy": float(robust.mean()), "ci_low": low, "ci_high": high, "n": n}
            rows.append({"norm": threat.norm, "eps": eps, "samples": samples, **entry})
            _add_attack(job, f"pgd-eot-{samples}", threat.norm, eps, robust, time.perf_counter() - start)
    return rows


def _add_attack(job: Job, name: str, norm: str, eps: float, robust: np.ndarray, seconds: float) -> None:
    """Beside the attacks of the run, so that the worst case counts it."""
    n = len(job.dataset.x_test)
    whole, attacked = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    whole[: len(robust)], attacked[: len(robust)] = robust, True
    mask = job.records.write_mask((job.run["defence"], f"seed{job.run['seed']}", name, norm, eps), whole, attacked)
    job.run["attacks"].append(
        {
            "attack": name,
            "norm": norm,
            "eps": eps,
            "view": "default",
            "status": "ok",
            "robust_accuracy": float(robust.mean()),
            "n": len(robust),
            "seen": int(job.clean.sum()),
            "seconds": seconds,
            "mask": mask,
        }
    )


def _explanations(job: Job) -> list[dict[str, Any]]:
    """How readable the explanations of the first test images are."""
    from art_sensreg.interpret import ExplanationConfig, explain

    n = job.cell.attackable(_EXPLAINED[job.settings.budget])
    x, y = job.dataset.x_test[:n], job.dataset.y_test[:n]
    # Every draw of a random model is a pass of its own.
    effort = {} if job.cell.random is None else {"steps": 8, "samples": 4}
    scores = explain(job.cell.adaptive, x, y, ExplanationConfig(seed=job.run["seed"], **effort))
    return [score.to_dict() for score in scores]


def draw_saliency(cells: dict[str, Cell | None], x: np.ndarray, y: np.ndarray, path: Path) -> bool:
    """
    Draw images with the saliency maps of the undefended, an adversarially trained and the SR+JR model.

    :param cells: The trained cells of a seed, by defence.
    :param x: Images.
    :param y: Class indices.
    :param path: PNG file.
    :return: Whether there was a model to draw.
    """
    from art_sensreg.interpret import saliency_picture

    adversarial = next((name for name in _ADVERSARIAL if cells.get(name) is not None), None)
    chosen = {name: cells.get(name) for name in ("none", adversarial, "sr+jr") if name is not None}
    classifiers = {name: cell.model for name, cell in chosen.items() if cell is not None}
    if classifiers:
        saliency_picture(classifiers, x, y, path)
    return bool(classifiers)


def judge_claims(records: Records, dataset: Dataset) -> None:
    """
    Say of every trained defence whether the run shows what it claims.

    :param records: The results.
    :param dataset: The data.
    """
    for run in records.runs:
        if run["clean_accuracy"] is not None and run["defence"] in DEFENCES:
            claim = DEFENCES[run["defence"]].claim
            try:
                run["claim"] = _judged(records, dataset, run, claim)
            except STOPS:
                raise
            except BaseException as error:  # noqa: BLE001 - one failing row must not take the others with it
                text = {"status": "not measured", "text": describe(error)}
                run["claim"] = {"metric": claim.metric, "threat": claim.threat, **text}


def _judged(records: Records, dataset: Dataset, run: dict[str, Any], claim: Claim) -> dict[str, Any]:
    twin = records.find(claim.over, run["seed"])
    if twin is not None and twin["clean_accuracy"] is not None:
        # Some defences are attacked on the first images only.
        cases = [records.worst_case(twin, case["norm"], case["eps"], case["n"]) for case in run["worst_case"]]
        twin = {"defence": claim.over, "worst_case": [case for case in cases if case is not None]}
    else:
        twin = None
    certified = max([case["n"] for case in run.get("certified", [])], default=len(dataset.y_test))
    chance = np.bincount(dataset.y_test[:certified]).max() / certified
    return judged(claim, run, twin, float(chance))
