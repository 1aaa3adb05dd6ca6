"""The measurements of `benchmarks/gpu.py`, for a machine with a GPU."""

from art_sensreg.benchmark.gpu.records import GpuResults
from art_sensreg.benchmark.gpu.report import write_gpu
from art_sensreg.benchmark.gpu.run import MARK, run_all
from art_sensreg.benchmark.gpu.stages import REDUCED, STAGES, Size, run_stage

__all__ = ["MARK", "REDUCED", "STAGES", "GpuResults", "Size", "run_all", "run_stage", "write_gpu"]
