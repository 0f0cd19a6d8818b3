"""What the policy's forward pass tells: sums and counts, so that parts of a step, on several workers or in several
batches, come to what the whole would have come to."""

from dataclasses import dataclass, fields

from torch import Tensor

from blm.model.options import PolicyConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLosses:
    """Sums over rows, all float tensors."""

    flow_sum: Tensor
    """Squared errors of the velocity, over real actions and dimensions of all noise draws."""
    flow_count: Tensor
    """How many those are."""
    future_sum: Tensor
    """1 - cosine between predicted and true latents of the future picture, averaged over a row's latents."""
    future_count: Tensor
    """Rows times noise draws; 0 where the policy predicts no future."""
    copy_sum: Tensor | None = None
    """In eval mode: 1 - cosine between the latents of the present and of the future picture, a row once."""
    copy_count: Tensor | None = None
    """Rows."""
    target_sum: Tensor | None = None
    """In eval mode: true latents summed over rows, float64 [N, d]."""
    target_square_sum: Tensor | None = None
    """Their squares, float64 [N, d]."""

    def __add__(self, other: "PolicyLosses") -> "PolicyLosses":
        """Of both together."""
        names = [field.name for field in fields(self)]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return PolicyLosses(**{n: None if a is None or b is None else a + b for n, (a, b) in pairs.items()})


def combine(losses: PolicyLosses, config: PolicyConfig) -> Tensor:
    """The scalar that training lowers: mean flow loss plus the weighted mean future loss.

    Of several workers each one's sums go with the counts of all: put those in first (`dataclasses.replace`).
    """
    loss = losses.flow_sum / losses.flow_count
    if config.future_weight > 0:
        loss = loss + config.future_weight * losses.future_sum / losses.future_count
    return loss


def means(losses: PolicyLosses) -> dict[str, Tensor]:
    """`flow` and `future`; of losses in eval mode also two numbers that say what `future` is worth.

    `copy` is the same for the baseline that predicts no change: only the gap between the two means anything.
    `target_std` is how much the true latents differ between rows; 0: they have collapsed.
    """
    found = {
        "flow": losses.flow_sum / losses.flow_count,
        "future": losses.future_sum / losses.future_count.clamp(min=1),
    }
    if losses.copy_sum is not None and losses.copy_count is not None:
        found["copy"] = losses.copy_sum / losses.copy_count.clamp(min=1)
        if losses.target_sum is not None and losses.target_square_sum is not None:
            mean = losses.target_sum / losses.copy_count
            variance = losses.target_square_sum / losses.copy_count - mean**2
            found["target_std"] = variance.clamp(min=0).sqrt().mean().float()
    return found
