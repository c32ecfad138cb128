"""What a person reads after a study: one offline page, the same as Markdown, and a table.

Only result files are read; nothing here knows how they came about.
"""

from advreg.extras import needs

with needs("report", "advreg.report"):
    from advreg.report.bench import bench_chart, print_bench
    from advreg.report.study import write_study
    from advreg.report.terminal import print_study

__all__ = [
    "bench_chart",
    "print_bench",
    "print_study",
    "write_study",
]
