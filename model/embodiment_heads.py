"""Per-embodiment encoders and decoders: the only parts of the policy that know a robot's dimensions.

One small MLP a robot at its real dimensions. Padding all robots to the widest, and gathering weights by robot
index, was 3 to 9 times slower and spends parameters on dimensions that do not exist.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from blm.model.errors import UserError
from blm.model.layout import Layout


class EmbodimentHead(nn.Module):
    """State encoder, action encoder and action decoder of one robot."""

    def __init__(self, layout: Layout, width: int, hidden: int) -> None:
        super().__init__()
        self.layout = layout
        self.state_encoder = _mlp(layout.state_dim, hidden, width)
        self.action_encoder = _mlp(layout.action_dim, hidden, width)
        self.action_decoder = _mlp(width, hidden, layout.action_dim)

    def encode_state(self, state: Tensor) -> Tensor:
        """Normalised proprioception [b, S] -> one token [b, 1, d]."""
        return self.state_encoder(state).unsqueeze(1)

    def encode_actions(self, actions: Tensor) -> Tensor:
        """Noisy normalised actions [b, H, A] -> tokens [b, H, d]."""
        return self.action_encoder(actions)

    def decode_actions(self, tokens: Tensor) -> Tensor:
        """Tokens [b, H, d] -> velocities [b, H, A]."""
        return self.action_decoder(tokens)


class EmbodimentHeads(nn.ModuleDict):
    """One head a robot, by name. UserError for two robots of one name."""

    def __init__(self, layouts: Sequence[Layout], width: int, hidden: int) -> None:
        names = [layout.name for layout in layouts]
        if len(set(names)) < len(names):
            raise UserError(f"robots {', '.join(names)}: two have the same name; give each robot its own")
        super().__init__({layout.name: EmbodimentHead(layout, width, hidden) for layout in layouts})

    def of(self, embodiment: str) -> EmbodimentHead:
        """A robot's head. UserError for a robot the policy was not built for."""
        if embodiment not in self:
            raise UserError(f"this policy was not built for {embodiment!r}; it knows {', '.join(self)}")
        head = self[embodiment]
        assert isinstance(head, EmbodimentHead)
        return head


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
