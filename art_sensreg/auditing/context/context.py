"""The argument of every check of an audit: inputs, threat model, predictions and shared attacks."""

from __future__ import annotations

from dataclasses import replace

from art.estimators.classification import PyTorchClassifier

from art_sensreg.auditing.context.audited_model import AuditedModel
from art_sensreg.auditing.context.inputs import AuditInputs
from art_sensreg.auditing.context.shared_attacks import SharedAttacks
from art_sensreg.auditing.context.threat_model import ThreatModel
from art_sensreg.utils.stats import share_half_width


class AuditContext:
    """
    The argument of every check.

    `inputs` is what the user gave, `threat` the norm, eps and range of the images, `model` the classifier and its
    predictions, `attacks` the reference attack and what others find beyond it. Everything is computed once, when a
    check first needs it.

    :param inputs: The validated inputs of the audit.
    """

    def __init__(self, inputs: AuditInputs) -> None:
        self.inputs = inputs
        self.model = AuditedModel(inputs)
        self.threat = ThreatModel(inputs, self.model)
        self.attacks = SharedAttacks(inputs, self.model, self.threat)

    def of(self, classifier: PyTorchClassifier) -> AuditContext:
        """The same images and attacks on another classifier."""
        alone = replace(self.inputs, classifier=classifier, twin=None, surrogates=(), penalties=(), train_data=None)
        return AuditContext(alone)

    def tolerance(self, nominal: float, share: float | None = None, points: int | None = None) -> float:
        """
        A threshold no smaller than the sampling error of the points.

        :param nominal: The threshold if the number of points does not limit it.
        :param share: The measured fraction; the robust accuracy if None.
        :param points: The number of images it is a fraction of; all if None.
        :return: The largest of the threshold, half the width of the fraction's 95 % interval, and one image.
        """
        share = self.attacks.robust_accuracy if share is None else share
        points = self.inputs.n if points is None else points
        return max(nominal, share_half_width((share, points)), 1 / points)
