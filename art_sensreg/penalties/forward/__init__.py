"""The forward pass over a stack of clean and perturbed examples, and the activations read from it."""

from art_sensreg.penalties.forward.batch_norm import batch_norms
from art_sensreg.penalties.forward.inner_ascent import NORMS, Ascent, ClipValues, evaluated, inner_ascent
from art_sensreg.penalties.forward.main_output import ModelWrapper, main_logits, with_main_output
from art_sensreg.penalties.forward.noise import Probes, Randomness, draw_noise
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.penalties.forward.recomputation import with_graph
from art_sensreg.penalties.forward.row_coupling import LOOK
from art_sensreg.penalties.forward.taps import ActivationTaps, Layers, check_layers, trial
from art_sensreg.penalties.forward.trial_rows import trial_rows

__all__ = [
    "LOOK",
    "NORMS",
    "ActivationTaps",
    "Ascent",
    "ClipValues",
    "ForwardPlan",
    "Layers",
    "ModelWrapper",
    "Probes",
    "Randomness",
    "batch_norms",
    "check_layers",
    "draw_noise",
    "evaluated",
    "inner_ascent",
    "main_logits",
    "trial",
    "trial_rows",
    "with_graph",
    "with_main_output",
]
