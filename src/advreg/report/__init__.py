"""What a person reads after a study: one offline page, the same as Markdown, and a table.

Only result files are read; nothing here knows how they came about.
"""

from advreg.extras import needs

with needs("report", "advreg.report"):
    from advreg.report.bench import bench_chart, print_bench
    from advreg.report.plots import figure
    from advreg.report.results import read_results
    from advreg.report.study import write_study
    from advreg.report.terminal import print_results
    from advreg.report.write import write_report

__all__ = [
    "bench_chart",
    "figure",
    "print_bench",
    "print_results",
    "read_results",
    "write_report",
    "write_study",
]
