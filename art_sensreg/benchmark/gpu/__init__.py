"""What a machine with a GPU measures once: `benchmarks/gpu.py`."""

from art_sensreg.benchmark.gpu.records import GpuResults
from art_sensreg.benchmark.gpu.report import write_gpu
from art_sensreg.benchmark.gpu.run import MARK, run_all
from art_sensreg.benchmark.gpu.stages import REDUCED, STAGES, Size, run_stage

__all__ = ["MARK", "REDUCED", "STAGES", "GpuResults", "Size", "run_all", "run_stage", "write_gpu"]
