"""A study's results as one offline page and as Markdown."""

from advreg.report.study.write import write_study

__all__ = ["write_study"]
