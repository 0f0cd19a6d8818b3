"""Per-embodiment encoders and decoders: the only parts of the policy that know a robot's dimensions.

One small MLP a robot at its real dimensions. Padding all robots to the widest, and gathering weights by robot
index, was 3 to 9 times slower and spends parameters on dimensions that do not exist.
"""

from torch import Tensor, nn

from blm.model.embodiments import get_embodiment


class EmbodimentHead(nn.Module):
    """State encoder, action encoder and action decoder of one robot."""

    def __init__(self, state_dim: int, action_dim: int, width: int, hidden: int) -> None:
        super().__init__()
        self.state_encoder = _mlp(state_dim, hidden, width)
        self.action_encoder = _mlp(action_dim, hidden, width)
        self.action_decoder = _mlp(width, hidden, action_dim)

    def encode_state(self, state: Tensor) -> Tensor:
        """Normalised proprioception [b, S] -> one token [b, 1, d]."""
        return self.state_encoder(state).unsqueeze(1)

    def encode_actions(self, actions: Tensor) -> Tensor:
        """Noisy normalised actions [b, H, A] -> tokens [b, H, d]."""
        return self.action_encoder(actions)

    def decode_actions(self, tokens: Tensor) -> Tensor:
        """Tokens [b, H, d] -> velocities [b, H, A]."""
        return self.action_decoder(tokens)


def build_heads(embodiments: tuple[str, ...], width: int, hidden: int) -> nn.ModuleDict:
    """One head a robot. UserError for an unknown name."""
    bodies = [get_embodiment(name) for name in embodiments]
    return nn.ModuleDict({b.name: EmbodimentHead(b.state_dim, b.action_dim, width, hidden) for b in bodies})


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
