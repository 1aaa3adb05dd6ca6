"""The defences of the suite: their registry, and how to add one."""

from art_sensreg.benchmark.defences.claims import Claim, robust_accuracy
from art_sensreg.benchmark.defences.factories import from_penalties, from_trainer
from art_sensreg.benchmark.defences.registry import ADVERSARIALLY_TRAINED, DEFENCES, register
from art_sensreg.benchmark.defences.spec import Certificate, Defence, Postprocessing, Preprocessing, Randomness
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec

__all__ = [
    "ADVERSARIALLY_TRAINED",
    "DEFENCES",
    "Certificate",
    "Claim",
    "Defence",
    "NotApplicable",
    "Postprocessing",
    "Preprocessing",
    "Randomness",
    "TrainingSpec",
    "from_penalties",
    "from_trainer",
    "register",
    "robust_accuracy",
]
