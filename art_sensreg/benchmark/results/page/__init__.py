"""The page of a run, `report.html`: one file that makes no request, from results alone."""

from art_sensreg.benchmark.results.page.content import page_html

__all__ = ["page_html"]
