"""The measurement of `art-sensreg step-cost`: training steps against a plain PyTorch loop in the same process."""

from art_sensreg.benchmark.step_cost.loops import MODELS, PRECISIONS, TimedModel, epoch_loop, make_bench
from art_sensreg.benchmark.step_cost.memory import cuda_peak, memory_rise
from art_sensreg.benchmark.step_cost.report import cost_table, list_names, model_heading, note_lines, write_step_cost
from art_sensreg.benchmark.step_cost.timing import StepCostSettings, run_step_cost, seconds_of, without_folders
from art_sensreg.benchmark.step_cost.variants import VARIANTS, Variant

__all__ = [
    "MODELS",
    "PRECISIONS",
    "VARIANTS",
    "StepCostSettings",
    "TimedModel",
    "Variant",
    "cost_table",
    "cuda_peak",
    "epoch_loop",
    "list_names",
    "make_bench",
    "memory_rise",
    "model_heading",
    "note_lines",
    "run_step_cost",
    "seconds_of",
    "without_folders",
    "write_step_cost",
]
