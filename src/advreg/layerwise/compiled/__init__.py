"""The sites as parts of a compiled graph: what a compiler traces in place of the eager hooks.

S goes in as a tensor that the graph reads. What the backward pass leaves goes out as the gradient
of a tensor that takes part in nothing else: unlike a write inside the graph, a compiler cannot drop
that, whatever memory layouts it chooses.
"""

from advreg.layerwise.compiled.form import CompiledForm

__all__ = ["CompiledForm"]
