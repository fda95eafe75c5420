"""What methods share that learn from what their own model has drawn: the law that it draws from, and the terms of a clipped policy gradient that may not be."""
from sleepnet.decode import Law
from sleepnet.errors import UsageError
from sleepnet.methods import base


class FromDraws(base.Method):
    """A method with arguments temperature and control; with group, clip_low, clip_high, kl_weight and anchor where it calls `check_terms`."""

    @property
    def law(self) -> Law:
        """What is drawn from."""
        return Law(self.temperature)

    def check_terms(self, drawn: str) -> None:
        """Raises UsageError where a term of the loss can't be; `drawn`: what the model draws, in a word."""
        if self.group < 2:
            raise UsageError(f"method.arguments.group={self.group} has nothing that a {drawn} could be compared with: set it to 2 or more")
        if not self.temperature > 0:
            raise UsageError(f"method.arguments.temperature={self.temperature} must be positive: a greedy law has no gradient")
        if not (0 < self.clip_low < 1 and self.clip_high > 0 and self.kl_weight >= 0):
            raise UsageError("method.arguments: clip_low must lie between 0 and 1, clip_high be positive, kl_weight be at least 0")
        if self.kl_weight and not self.anchor:
            raise UsageError(f"method.arguments.kl_weight={self.kl_weight} is of a divergence from method.arguments.anchor, which is empty: name one, or set it to 0")

    def check_other_row(self, batch_size: int, given: str) -> None:
        """Raises UsageError where control='wrong_reference' has no other row whose `given` could be taken."""
        if self.control == "wrong_reference" and batch_size < 2:
            raise UsageError(f"train.batch_size={batch_size} has no other row whose {given} could be given: set it to 2 or more, or control=''")
