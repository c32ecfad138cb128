"""Many runs compared: methods by seeds, paired statistics, and the cost of a step."""

from advreg.extras import needs

with needs("cli", "advreg.study"):
    from advreg.study.cost import Cost, measure_cost
    from advreg.study.plan import Arm, Failure, Outcome, Plan, run_plan
    from advreg.study.statistics import Equivalence, Estimate, equivalence, estimate, paired

__all__ = [
    "Arm",
    "Cost",
    "Equivalence",
    "Estimate",
    "Failure",
    "Outcome",
    "Plan",
    "equivalence",
    "estimate",
    "measure_cost",
    "paired",
    "run_plan",
]
