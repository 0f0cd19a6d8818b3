"""Every pass of the models on a device that is not the CPU: nothing is mixed, and nothing waits for a number."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere import ELSEWHERE, is_elsewhere, moved, watched
from small_diffusion import SMALL, small_batch, small_contract, small_network
from small_families import encoded_row
from small_policy_batch import CONFIG, PANDA, XARM6, draws_of, make_batch, make_group, make_policy

from blm.model.augment import AugmentConfig, augment
from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.diffusion_network import make_draws
from blm.model.grounding import GroundingHead
from blm.model.intents import IntentExtractor
from blm.model.options import PolicyConfig
from blm.model.packing import pack
from blm.model.policy import Policy
from blm.model.policy_batch import PolicyBatch
from blm.model.policy_losses import combine, means
from blm.model.real_time import PrefixTensors
from blm.model.sft import SftModule, score_answers

HIDDEN = replace(CONFIG, state_dropout=0.1, guidance_dropout=0.1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda here, there: here @ there,
        lambda here, there: torch.nn.functional.linear(here, there),
        lambda here, there: here[there.long()],
        lambda here, there: there.sum().item(),
        lambda here, there: there.cpu(),
    ],
)
def test_what_an_accelerator_would_refuse_or_wait_for_is_refused(spoil) -> None:
    here, there = torch.zeros(2, 2), torch.zeros(2, 2, device=ELSEWHERE)
    with watched(), pytest.raises((RuntimeError, NotImplementedError)):
        spoil(here, there)
    with watched(host=False), pytest.raises(RuntimeError, match="a tensor of the host"):
        here.to(ELSEWHERE)


def test_what_an_accelerator_takes_is_taken() -> None:
    there = torch.zeros(2, 2, device=ELSEWHERE)
    with watched():
        assert is_elsewhere(
            there @ torch.zeros(2, 2).to(ELSEWHERE), there[torch.tensor([1])], there * torch.tensor(2.0)
        )


def policy_and_batch(config: PolicyConfig = HIDDEN) -> tuple[Policy, PolicyBatch]:
    batch = make_batch(make_group(PANDA, 3, 1, padded=4), make_group(XARM6, 2, 2), place=torch.arange(5))
    return make_policy(config).to(ELSEWHERE), batch.to(ELSEWHERE)


@pytest.mark.parametrize("draws", [1, 2])
def test_the_policy_trains(draws: int) -> None:
    policy, batch = policy_and_batch()
    with watched():
        losses = policy(batch, draws_of(batch, HIDDEN, draws=draws))
        combine(losses, HIDDEN).backward()
        policy.update_target()
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.requires_grad]
    assert is_elsewhere(*(gradient for gradient in gradients if gradient is not None))


def test_the_policy_is_measured_on_held_out_rows() -> None:
    policy, batch = policy_and_batch()
    with watched():
        assert is_elsewhere(*means(policy.eval()(batch, draws_of(batch, HIDDEN))).values())


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("goes_on", [False, True])
def test_the_policy_acts(guidance: float, goes_on: bool) -> None:
    policy, batch = policy_and_batch()
    group = batch.groups[0]
    prefixes = PrefixTensors(
        actions=group.actions, frozen=moved(torch.tensor([0, 2, 4])), overlap=moved(torch.tensor([0, 8, 12]))
    )
    noise = torch.zeros_like(group.actions)
    given = ("panda", group.state, batch.intents[:3], batch.mask[:3], noise, 4, guidance)
    with watched(host=False):
        chunks = policy.eval().sample(*given, prefixes=prefixes if goes_on else None)
    assert is_elsewhere(chunks)


def test_diffusion_policy_trains_and_acts() -> None:
    config = replace(SMALL, shift_px=2, word_dropout=0.1)
    contract = small_contract(("panda", "xarm6"), config=config, image_px=32)
    network = small_network(contract).to(ELSEWHERE)
    whole = small_batch([("panda", 0.1), ("panda", 0.2), ("xarm6", 0.3)])
    batch = replace(whole, groups=moved(whole.groups), pictures=moved(whole.pictures))
    draws = make_draws(config, seed=0, step=0, batch=3, draws=2, cameras=1, max_action_dim=8)
    with watched():
        total, count = network(batch, draws)
        (total / count).backward()
        seen, told = network.eval().look(batch.pictures[:2], whole.instructions[:2])
        noise = torch.zeros_like(batch.groups[0].actions)
        assert is_elsewhere(network.sample_for("panda", batch.groups[0].state, seen, told, noise, 5))


@pytest.mark.parametrize("texts", [(("push it",), ("pull it",)), (("push it", "push the cube"), ("pull it",))])
def test_intents_are_made(tiny_mllm, texts) -> None:
    extractor = IntentExtractor(tiny_mllm, layer=2, device="meta", invariant=False)
    with watched():
        parts = extractor.parts(np.zeros((2, 2, 56, 56, 3), np.uint8), texts)
        intents = extractor.encode_stacked(np.zeros((2, 2, 56, 56, 3), np.uint8), ["push it", "pull it"])
    assert is_elsewhere(parts.pictures, parts.texts, parts.lengths, intents.states, intents.mask)


def test_pictures_are_changed() -> None:
    pictures = torch.zeros(3, 2, 8, 8, 3, dtype=torch.uint8, device=ELSEWHERE)
    with watched():
        assert is_elsewhere(augment(pictures, np.array([0, 1, 2]), AugmentConfig(shift_px=2)))


def test_stage_1_trains_and_scores(tiny_mllm) -> None:
    model, processor = load_backbone(tiny_mllm)
    encoder = ChatEncoder(processor, model.config)
    module = SftModule(model, GroundingHead(96)).to(ELSEWHERE)
    rows = [
        encoded_row(encoder, seed, sizes=((56, 56),) * pictures, question="Where is the cube?", answer="yes")
        for seed, pictures in ((0, 1), (1, 2), (2, 0))
    ]
    batch = pack(rows, pad_token_id=0).to(ELSEWHERE)
    with watched():
        language, grounding = module(batch)
        (language + grounding).backward()
        module(batch, vision_only=True)
        score_answers(model, batch)
