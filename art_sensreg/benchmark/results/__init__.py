"""The results of a run: typed records, the folder that they are stored in, tables, plots and the report."""

from art_sensreg.benchmark.results.entries import AttackRecord, WorstCase
from art_sensreg.benchmark.results.export import EXPORTS, write_exports
from art_sensreg.benchmark.results.merge import merge_results
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.benchmark.results.report import write_report
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.benchmark.results.tables import summary_table
from art_sensreg.benchmark.results.writing import json_text, write_text

__all__ = [
    "EXPORTS",
    "AttackRecord",
    "ResultStore",
    "Results",
    "RunRecord",
    "WorstCase",
    "json_text",
    "merge_results",
    "read_results",
    "summary_table",
    "write_exports",
    "write_report",
    "write_text",
]
