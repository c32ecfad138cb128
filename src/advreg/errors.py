"""Every error and warning that the package raises by name; each message names the mend."""


class AdvregError(Exception):
    """A mistake its user can mend; the message is one sentence that says how."""


class SiteError(AdvregError):
    """A site was named that the network does not have, or that cannot be perturbed."""


class ConfigurationError(AdvregError, ValueError):
    """A setting has a value that cannot work."""


class AttachmentError(AdvregError, RuntimeError):
    """An adversary was attached where one is already, or used where none is."""


class UnsupportedError(AdvregError, RuntimeError):
    """Something was combined with an attached network that is refused by name."""


class StateError(AdvregError, ValueError):
    """A state or checkpoint does not belong to what it is loaded into."""


class MissingExtraError(AdvregError, ImportError):
    """A package is not installed that one of advreg's extras brings."""


class DataError(AdvregError, ValueError):
    """A data set is missing, malformed or out of range."""


class RunError(AdvregError, RuntimeError):
    """A run folder is missing, exists already or is damaged."""


class OutputError(AdvregError):
    """What a command prints cannot be written: the disk is full, or nobody reads it any more.

    Args:
        cause: What the operating system said, or rich's SystemExit, which stands for a closed pipe.

    Attributes:
        fault: What is wrong, for a sentence that goes on with the mend.
        code: The exit code: 2, or 141 for a closed pipe, as of a program that SIGPIPE ends.
    """

    def __init__(self, cause: BaseException) -> None:
        closed = isinstance(cause, (BrokenPipeError, SystemExit))
        reason = getattr(cause, "strerror", None) or cause
        self.fault = f"The output could not be written ({reason})"
        self.code = 141 if closed else 2
        mend = "send it to another place. What was saved is kept."
        if closed:
            self.fault, mend = "The output was closed", "read it to its end for the rest."
        super().__init__(f"{self.fault}; {mend}")


class InUseError(RunError):
    """Another process, or another run of this one, has a run folder."""


class AdvregWarning(UserWarning):
    """Base of all warnings of this package, so that they can be filtered by name."""


class SiteNeverRanWarning(AdvregWarning):
    """An attached site was not reached by any forward pass."""


class NeverTrainingWarning(AdvregWarning):
    """An attached network runs with gradients, but never in training mode."""


class NoGradientWarning(AdvregWarning):
    """An attached site ran but no gradient ever came back to it."""


class MemoryResetWarning(AdvregWarning):
    """A site's shape or device changes so often that its memory is mostly empty."""


class SlowKernelsWarning(AdvregWarning):
    """The fast kernels are not to be had here; plain torch operations do their work."""


class GraphBreakWarning(AdvregWarning):
    """This version of torch cannot compile the sites; they run between parts of compiled code."""


class CollapseWarning(AdvregWarning):
    """The training loss stays at chance under perturbation."""


class CatastrophicOverfittingWarning(AdvregWarning):
    """Single-step training has become robust to its own attack alone: FGSM holds, PGD does not."""


class UnprotectedWarning(AdvregWarning):
    """At the budget that a network trains on, PGD leaves almost none of its images right."""


class EmptyPerturbationWarning(AdvregWarning):
    """A perturbation, or what a method adds to the loss, is zero step after step."""


class SkippedFilesWarning(AdvregWarning):
    """A data folder holds files that are not used."""


class UnevenVisitsWarning(AdvregWarning):
    """A training ends before blocks of mini-batches have come as often as the others."""


class MaskedAttackWarning(AdvregWarning):
    """An attack on codes did nothing, or less than noise: its figure says nothing of robustness."""


class GeneratorCollapseWarning(AdvregWarning):
    """A generator's images are nearly all alike."""


class GeneratorMemoryWarning(AdvregWarning):
    """A generator's images are nearly those that it was trained on."""


class DamagedCheckpointWarning(AdvregWarning):
    """A checkpoint cannot be read, and the run goes on from the one before."""
