"""How interpretable a model's explanations are: saliency maps, metrics for them, and plots of them."""

from art_sensreg.interpret.areas import blurred, deletion_area, insertion_area
from art_sensreg.interpret.config import ExplanationConfig
from art_sensreg.interpret.metrics import alignment, gini_sparsity, infidelity, max_sensitivity
from art_sensreg.interpret.picture import saliency_picture
from art_sensreg.interpret.saliency import SALIENCIES, input_gradient, integrated_gradients
from art_sensreg.interpret.scores import ExplanationScore, explain

__all__ = [
    "SALIENCIES",
    "ExplanationConfig",
    "ExplanationScore",
    "alignment",
    "blurred",
    "deletion_area",
    "explain",
    "gini_sparsity",
    "infidelity",
    "input_gradient",
    "insertion_area",
    "integrated_gradients",
    "max_sensitivity",
    "saliency_picture",
]
