"""Training: the one loop, its settings, and what it does for a run (data, steps, schedules, checkpoints). No ART."""

from art_sensreg.training.batches import Augmentation
from art_sensreg.training.callbacks import Callback, History, TrainingState
from art_sensreg.training.config import CHEAP_FRACTION, TrainingConfig
from art_sensreg.training.loop import train
from art_sensreg.training.run import RunSetup
from art_sensreg.training.tracking import MLflowCallback, TensorBoardCallback, WandbCallback, history_frame
from art_sensreg.training.validation import ValidationAttack

__all__ = [
    "CHEAP_FRACTION",
    "Augmentation",
    "Callback",
    "History",
    "MLflowCallback",
    "RunSetup",
    "TensorBoardCallback",
    "TrainingConfig",
    "TrainingState",
    "ValidationAttack",
    "WandbCallback",
    "history_frame",
    "train",
]
