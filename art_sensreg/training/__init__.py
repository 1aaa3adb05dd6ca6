"""Training: the one loop, its settings and the checks of its inputs. Nothing here knows of ART."""

from art_sensreg.training.callbacks import Callback, TrainingState
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.validation import ValidationAttack

__all__ = ["Callback", "TrainingConfig", "TrainingState", "ValidationAttack"]
