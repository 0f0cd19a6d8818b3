"""The policy of Stage II: intents and proprioception in, action chunks out.

Sequence: [1 state token][M future tokens][H noisy action tokens] through the Diffusion Transformer, which attends
to the bridge's latents of the present picture. The future tokens learn, halfway up, to predict the bridge's latents
of the picture one chunk later (FLARE, arXiv 2505.15659); M equals the number of latents, so they align one to one.
Robots of several bodies share everything but their heads; rows of one body stand together in a batch, so no row is
gathered or padded.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blm.model.bridge import IntentBridge
from blm.model.dit import Dit
from blm.model.embodiment_heads import EmbodimentHeads
from blm.model.errors import UserError
from blm.model.flow import euler, noisy, step_times
from blm.model.layout import Layout
from blm.model.options import PolicyConfig
from blm.model.policy_batch import PolicyBatch, PolicyDraws, disturbed, refuse_non_finite
from blm.model.policy_losses import PolicyLosses
from blm.model.real_time import PrefixTensors, guided_euler

Timetable = Mapping[float, Tensor]
"""What each flow time of a sampler says to the transformer: `Dit.modulations` by time."""


class Policy(nn.Module):
    """Bridge, transformer and per-embodiment heads."""

    def __init__(self, config: PolicyConfig, *, layouts: Sequence[Layout], intent_width: int, max_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.bridge = IntentBridge(
            intent_width=intent_width,
            max_tokens=max_tokens,
            width=config.width,
            latents=config.latents,
            layers=config.bridge_layers,
            heads=config.heads,
        )
        self.dit = Dit(width=config.width, blocks=config.blocks, heads=config.heads, dropout=config.dropout)
        self.robots = EmbodimentHeads(layouts, config.width, config.head_hidden)
        self.action_position = nn.Parameter(torch.randn(config.chunk, config.width) * 0.02)
        self.no_state = nn.Parameter(torch.randn(config.width) * 0.02)
        if config.guidance_dropout > 0:
            self.no_intent = nn.Parameter(torch.randn(config.latents, config.width))  # latents are normalised
        if config.future_weight > 0:
            self.future_tokens = nn.Parameter(torch.randn(config.latents, config.width) * 0.02)
            self.future_project = nn.Sequential(
                nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
            )
            self.target_bridge = copy.deepcopy(self.bridge).requires_grad_(False)

    def forward(self, batch: PolicyBatch, draws: PolicyDraws) -> PolicyLosses:
        """Sums and counts of the losses of a batch, each row with the draws of its place.

        UserError for a robot it was not built for, and, on CPU, for a row with NaN or infinite values. On other devices
        that look would wait for the device: there, call `refuse_non_finite` when a loss turns out not to be finite.
        """
        clean = batch
        if self.training:
            batch = disturbed(batch, draws, self.config)
        places = batch.places
        times = draws.times[places]
        repeats = times.shape[1]
        latents = self.bridge(batch.intents, batch.mask)
        device = latents.device
        times = times.flatten().to(device)
        states, tokens, targets = [], [], []
        first = 0
        for group in batch.groups:
            head, rows = self.robots.of(group.embodiment), slice(first, first + len(group.state))
            first += len(group.state)
            noise = draws.noise[places[rows], ..., : group.actions.shape[-1]].flatten(0, 1).to(device)
            now = times[rows.start * repeats : rows.stop * repeats]
            x_t, velocity = noisy(group.actions.repeat_interleave(repeats, dim=0), noise, now)
            states.append(head.encode_state(group.state))
            tokens.append(head.encode_actions(x_t))
            targets.append(velocity)
        state = torch.cat(states)
        _require_finite(clean, latents, state, *tokens)
        if self.training:
            latents, state = self._hidden(latents, state, draws, places)
        sequence = self._sequence(state.repeat_interleave(repeats, dim=0), torch.cat(tokens))
        tap = self.config.future_block if self.config.future_weight > 0 else None
        keys = self.dit.intent_key_values(latents)
        out, tapped = self.dit(sequence, self.dit.modulations(times), keys, last=self.config.chunk, tap=tap)
        flow_sum, flow_count = self._flow(batch, out, targets, repeats)
        return PolicyLosses(flow_sum=flow_sum, flow_count=flow_count, **self._future(clean, tapped, repeats))

    def _hidden(self, latents: Tensor, state: Tensor, draws: PolicyDraws, places: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and state tokens with learned ones in place of those that are drawn to be hidden."""
        if self.config.state_dropout > 0:
            hidden = draws.no_state[places].to(state.device)
            state = torch.where(hidden[:, None, None], self.no_state.to(state.dtype), state)
        if self.config.guidance_dropout > 0:
            hidden = draws.no_intent[places].to(latents.device)
            latents = torch.where(hidden[:, None, None], self.no_intent.to(latents.dtype), latents)
        return latents, state

    def _sequence(self, state: Tensor, actions: Tensor) -> Tensor:
        parts = [state, actions + self.action_position]
        if self.config.future_weight > 0:
            parts.insert(1, self.future_tokens.expand(len(state), -1, -1))
        return torch.cat(parts, dim=1)

    def _flow(self, batch: PolicyBatch, out: Tensor, targets: list[Tensor], repeats: int) -> tuple[Tensor, Tensor]:
        """Squared errors of the velocity over real actions and dimensions, and their number; all robots weigh by their
        elements."""
        total, count = out.new_zeros(()), out.new_zeros(())
        first = 0
        for group, target in zip(batch.groups, targets, strict=True):
            rows = out[first : first + len(target)]
            first += len(target)
            real = (~group.is_pad).repeat_interleave(repeats, dim=0).unsqueeze(-1)
            error = (self.robots.of(group.embodiment).decode_actions(rows).float() - target) ** 2
            total = total + torch.where(real, error, 0.0).sum()
            count = count + real.sum() * target.shape[-1]
        return total, count

    def _future(self, batch: PolicyBatch, tapped: Tensor, repeats: int) -> dict[str, Tensor]:
        zero = tapped.new_zeros((), dtype=torch.float32)
        if self.config.future_weight == 0:
            return {"future_sum": zero, "future_count": zero}
        assert batch.future_intents is not None, "the future loss needs the intents of the future"
        assert batch.future_mask is not None, "and their mask"
        with torch.no_grad():
            target = self.target_bridge(batch.future_intents, batch.future_mask).float()
        _require_finite(batch, target)
        predicted = self.future_project(tapped[:, 1 : 1 + self.config.latents]).float()
        found = {
            "future_sum": _distances(predicted, target.repeat_interleave(repeats, dim=0)).sum(),
            "future_count": zero + len(predicted),
        }
        if not self.training:
            with torch.no_grad():
                present = self.target_bridge(batch.intents, batch.mask).float()
            found["copy_sum"] = _distances(present, target).sum()
            found["copy_count"] = zero + len(target)
            found["target_sum"] = target.double().sum(dim=0)
            found["target_square_sum"] = target.double().square().sum(dim=0)
        return found

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target bridge towards the trained one; called after every optimiser step."""
        if self.config.future_weight > 0:
            ours, target = list(self.bridge.parameters()), list(self.target_bridge.parameters())
            torch._foreach_lerp_(target, ours, 1 - self.config.ema_target)

    def sample(
        self,
        embodiment: str,
        state: Tensor,
        intents: Tensor,
        mask: Tensor,
        noise: Tensor,
        steps: int,
        guidance: float = 1.0,
        prefixes: PrefixTensors | None = None,
        timetable: Timetable | None = None,
    ) -> Tensor:
        """Normalised action chunks [b, H, A] of one robot by `steps` Euler steps from noise [b, H, A].

        guidance: how far to go from the velocity without intents to that with them and beyond (classifier-free
        guidance); 1 is the plain policy, at its cost. UserError for another one if the policy was trained without
        `guidance_dropout`. prefixes: what the chunks are to go on from (`real_time.py`), at about three times the cost.
        timetable: of as many steps, made with the same weights.
        """
        given = (embodiment, state, intents, mask, guidance, timetable or self.timetable(steps))
        if prefixes is None:
            with torch.inference_mode():
                return euler(self._velocity(*given), noise, steps)
        with torch.inference_mode(False), torch.no_grad():  # derivatives need tensors that can take part in them
            return guided_euler(self._velocity(*given), noise, steps, prefixes)

    def timetable(self, steps: int) -> Timetable:
        """For a sampler of so many steps. It follows from the weights alone, so whoever acts makes it once: a third of
        the transformer's weights need not be read for every step then."""
        device = self.action_position.device
        with torch.inference_mode(False), torch.no_grad():  # for derivatives too, as in `sample`
            return {time: self.dit.modulations(torch.full((1,), time, device=device)) for time in step_times(steps)}

    def _velocity(
        self, embodiment: str, state: Tensor, intents: Tensor, mask: Tensor, guidance: float, timetable: Timetable
    ) -> Callable[[Tensor, float], Tensor]:
        """velocity(x [b, H, A], time) -> [b, H, A]; what steps have in common is computed once."""
        head = self.robots.of(embodiment)
        state_token = head.encode_state(state)
        latents = self.bridge(intents, mask)
        guided = guidance != 1.0
        if guided:
            if self.config.guidance_dropout == 0:
                raise UserError(
                    f"guidance {guidance:g} needs a policy trained with guidance_dropout above 0; use guidance 1"
                )
            latents = torch.cat([latents, self.no_intent.to(latents.dtype).expand_as(latents)])
            state_token = torch.cat([state_token, state_token])
        keys = self.dit.intent_key_values(latents)

        def velocity(x: Tensor, time: float) -> Tensor:
            if guided:
                x = torch.cat([x, x])
            sequence = self._sequence(state_token, head.encode_actions(x))
            out, _ = self.dit(sequence, timetable[time], keys, last=self.config.chunk)  # all rows are at the same time
            found = head.decode_actions(out)
            if guided:
                with_intent, without = found.chunk(2)
                found = torch.lerp(without, with_intent, guidance)
            return found

        return velocity


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine of tokens [B, N, d], averaged over the tokens of each row: [B]."""
    return 1 - F.cosine_similarity(one, other, dim=-1).mean(dim=1)


def _require_finite(batch: PolicyBatch, *made: Tensor) -> None:
    """UserError if what was made of a batch on CPU is not finite because the batch is not."""
    if made[0].device.type != "cpu" or torch.compiler.is_compiling():
        return
    if not all(torch.isfinite(tensor.detach().sum()) for tensor in made):
        refuse_non_finite(batch)
