"""The prompt engine against transformers' own processors, for every tested family."""

import numpy as np
import pytest
import torch
from small_families import FAMILIES, UNLISTED, write_family
from transformers.video_utils import VideoMetadata

from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder, VideoShape
from blm.model.errors import UserError
from blm.model.families import empty_model
from blm.model.prompts import IGNORE_INDEX, SYSTEM_PROMPTS, chat_content

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((70, 100), (56, 56), (112, 60))]
VIDEO = (RNG.integers(0, 255, (5, 60, 90, 3), dtype=np.uint8), 1.5)
SYSTEM = {"role": "system", "text": SYSTEM_PROMPTS["cosmos"]}


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(texts)]


# messages, pictures, videos, answers as they are to be learnt
CASES = {
    "text": (turns("Where is the cube?", "yes"), [], [], ["yes"]),
    "text with odd spaces": (turns("What\n\n happens?", "no \n yes é☺"), [], [], ["no \n yes é☺"]),
    "system": ([SYSTEM, *turns("Where?", "yes")], [], [], ["yes"]),
    "one picture": (turns("<image>\nWhere?", "no"), IMAGES[:1], [], ["no"]),
    "pictures in text": (turns("One <image> two <image><image>?", "yes"), IMAGES, [], ["yes"]),
    "turns": (
        [SYSTEM, *turns("<image>Where?", "no", "Sure?<image>", "no", "no", "yes")],
        IMAGES[:2],
        [],
        ["no", "no", "yes"],
    ),
    "video": (turns("<video>\nWhat happens in the video?", "no"), [], [VIDEO], ["no"]),
    "picture and video": (turns("<image><video>What?<image>", "no"), IMAGES[:2], [VIDEO], ["no"]),
}


@pytest.fixture(scope="module", params=[*FAMILIES, UNLISTED])
def family(request, tmp_path_factory):
    folder = write_family(tmp_path_factory.mktemp("families") / request.param, request.param)
    return ChatEncoder.load(folder), *load_backbone(folder)


def cases(encoder: ChatEncoder) -> dict:
    """Those that the family knows."""
    without = ("picture and video",) if encoder.family.one_stream else ()
    if not hasattr(encoder.processor, "video_token"):
        without = ("video", "picture and video")
    return {name: case for name, case in CASES.items() if name not in without}


def shapes(videos) -> list[VideoShape]:
    return [VideoShape(frames=len(v), height=v.shape[1], width=v.shape[2], fps=fps) for v, fps in videos]


def reference(processor, messages, images, videos, generation_prompt=False):
    """What transformers makes of the conversation."""
    content = chat_content(messages)
    pictures, films = iter(images), iter(videos)
    for part in (part for message in content for part in message["content"]):
        if part["type"] == "image":
            part["image"] = next(pictures)
        elif part["type"] == "video":
            part["video"] = next(films)[0]
    metadata = [VideoMetadata(total_num_frames=len(v), fps=fps, frames_indices=[*range(len(v))]) for v, fps in videos]
    options = {"videos_kwargs": {"video_metadata": metadata, "do_sample_frames": False}} if videos else {}
    return processor.apply_chat_template(
        content,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=generation_prompt,
        processor_kwargs=options,
    )


def test_tokens_equal_the_processors(family):
    encoder, _, processor = family
    for name, (messages, images, videos, _) in cases(encoder).items():
        for prompt in (False, True):
            theirs = reference(processor, messages, images, videos, prompt)
            sizes = [image.shape[:2] for image in images]
            ours = encoder.encode(messages, sizes, shapes(videos), generation_prompt=prompt)
            assert ours.input_ids.tolist() == theirs["input_ids"][0].tolist(), name


def test_positions_equal_the_models(family):
    encoder, model, processor = family
    for name, (messages, images, videos, _) in cases(encoder).items():
        ours = encoder.encode(messages, [image.shape[:2] for image in images], shapes(videos)).positions
        expected = np.arange(ours.shape[1])[None]
        if hasattr(model.model, "get_rope_index"):
            inputs = reference(processor, messages, images, videos)
            known = {"input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts"}
            positions, _ = model.model.get_rope_index(**{k: v for k, v in inputs.items() if k in known})
            expected = positions[:, 0].numpy()
        assert np.array_equal(ours, expected), name


def test_answers_and_their_end_alone_carry_loss(family):
    encoder, _, _ = family
    for name, (messages, images, videos, answers) in cases(encoder).items():
        chat = encoder.encode(messages, [image.shape[:2] for image in images], shapes(videos))
        learnt = encoder.tokenizer.decode(chat.labels[chat.labels != IGNORE_INDEX])
        assert learnt == "".join(answer + "<|im_end|>" for answer in answers), name
        assert ((chat.labels == IGNORE_INDEX) | (chat.labels == chat.input_ids)).all()


def test_media_equal_the_processors(family):
    encoder, _, processor = family
    for name, (messages, images, videos, _) in cases(encoder).items():
        theirs = reference(processor, messages, images, videos)
        media = encoder.media(images, videos)
        if not encoder.family.fast_vision:
            assert set(media.inputs) == {k for k in theirs if k.startswith(("pixel", "image_grid", "video_grid"))}
            assert all(torch.equal(tensor, theirs[key]) for key, tensor in media.inputs.items()), name
            continue
        from blm.model.vision import patchify

        pairs = [video.reshape(-1, 2, *video.shape[1:]) for video in media.videos]
        for key, parts in (("pixel_values", [i[None] for i in media.images]), ("pixel_values_videos", pairs)):
            if parts:
                patches = torch.cat([patchify(part).flatten(0, 1) for part in parts])
                assert torch.allclose(patches, theirs[key], atol=1e-5), name
        assert [encoder.resized(*i.shape[:2]) for i in images] == [i.shape[:2] for i in media.images]


def test_a_picture_is_asked_about_once_a_size(family, monkeypatch):
    encoder, _, _ = family
    messages, images, _, _ = CASES["turns"]
    sizes = [image.shape[:2] for image in images]
    first = encoder.encode(messages, sizes)

    def refuse(*_args, **_options):
        raise AssertionError("asked again")

    monkeypatch.setattr(type(encoder.processor), "__call__", refuse)
    assert np.array_equal(encoder.encode(messages, sizes).input_ids, first.input_ids)


def test_positions_of_a_family_that_is_not_in_the_table_come_from_its_model(tmp_path, monkeypatch):
    from dataclasses import replace

    encoder = ChatEncoder.load(write_family(tmp_path / "qwen", "qwen2_5_vl"))
    messages, images, videos, _ = CASES["picture and video"]
    sizes = [image.shape[:2] for image in images]
    expected = encoder.encode(messages, sizes, shapes(videos)).positions
    monkeypatch.setattr(encoder, "family", replace(encoder.family, positions="model"))
    assert np.array_equal(encoder.encode(messages, sizes, shapes(videos)).positions, expected)
    assert all(parameter.is_meta for parameter in empty_model(encoder.config).parameters())


def test_mistakes_are_told(family):
    encoder, _, processor = family
    with pytest.raises(UserError, match="1 <image> placeholders for 0 images; give one placeholder an image"):
        encoder.encode(turns("<image>Where?", "no"))
    with pytest.raises(UserError, match="0 <video> placeholders for 1 videos; give one placeholder a video"):
        encoder.encode(turns("Where?", "no"), videos=shapes([VIDEO]))
    if not hasattr(processor, "video_token"):
        with pytest.raises(UserError, match="llava models have no videos"):
            encoder.encode(turns("<video>", "no"), videos=shapes([VIDEO]))
        return
    with pytest.raises(UserError, match="holds the model's own word"):
        encoder.encode(turns(f"Where {processor.image_token}?", "no"))
    with pytest.raises(UserError, match="give frames and their rate"):
        encoder.encode(turns("<video>", "no"), videos=[VideoShape(frames=4, height=56, width=56, fps=0)])
    if encoder.family.one_stream:
        with pytest.raises(UserError, match="pictures or videos in a conversation, not both"):
            encoder.encode(turns("<image><video>", "no"), [(56, 56)], shapes([VIDEO]))


def test_a_model_without_a_chat_template_is_refused(family, monkeypatch):
    _, model, processor = family
    monkeypatch.setattr(processor, "chat_template", None)
    with pytest.raises(UserError, match="no chat template"):
        ChatEncoder(processor, model.config)
