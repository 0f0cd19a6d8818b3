"""What answers mean: letters as two parsers read them, equal words, BLEU, a judge's verdict; and what clips show."""

from pathlib import Path

import numpy as np
import pytest
from small_benchmarks import jpeg, write_clip, write_file

from blm.model.errors import UserError
from blm.pipelines.digital.extract import extract
from blm.pipelines.digital.item import Media
from blm.pipelines.digital.media import Clip, MediaError, MediaRules, show
from blm.pipelines.digital.verdict import TEMPLATE, instruction, read_rating
from blm.pipelines.digital.words import bleu, same_words

OPTIONS = {"A": "Grasp the cup", "B": "Push the cup", "C": "yes"}


@pytest.mark.parametrize(
    ("said", "robust", "official"),
    [
        ("B", "B", "B"),
        ("(B) Push the cup", "B", "B"),
        ("The answer is B.", "B", "T"),
        ("the answer is **B**", "B", "B"),
        ("$\\boxed{B}$", "B", "B"),
        ("Push the cup", "B", "P"),
        ("A robot pushes the cup, so B", "B", "A"),
        ("the answer is a cup", "", ""),
        ("Answer: A or B", "", "A"),
        ("D", "", "D"),
        ("<think>B it is</think> A", "A", "B"),
        ("<think>B, because", "", "B"),
        ("", "", ""),
    ],
)
def test_letters_are_read_as_meant_or_as_the_official_script_does(said: str, robust: str, official: str) -> None:
    assert extract(said, OPTIONS, parser="robust", reasoning=False) == robust
    assert extract(said, OPTIONS, parser="official", reasoning=False) == official


@pytest.mark.parametrize(
    ("said", "robust", "official"),
    [
        ("<think> A? </think> <answer> B </answer>", "B", "B"),
        ("<think> A? </think> <answer>it is B</answer>", "B", "B"),
        ("<think> A? </think> B", "B", ""),
        ("<think> A, or rather", "", ""),
        ("<answer>\n(B) Push the cup\n</answer>", "B", "B"),
        ("<answer></answer>", "", ""),
    ],
)
def test_answers_after_reasoning_are_read_inside_their_tags(said: str, robust: str, official: str) -> None:
    assert extract(said, OPTIONS, parser="robust", reasoning=True) == robust
    assert extract(said, OPTIONS, parser="official", reasoning=True) == official


def test_equal_words_forgive_case_and_marks_alone() -> None:
    assert same_words("<place the cup>", "Place the cup.") == 1
    assert same_words("place the cup", "place a cup") == 0
    assert same_words("yes", "Yes, it can") == 1
    assert same_words("no", "not now") == 0
    assert same_words("no", "") == 0


def test_bleu_counts_whole_words_up_to_the_length_of_the_reference() -> None:
    assert bleu("place the cup on the table", "place the cup on the table") == pytest.approx(1.0)
    assert bleu("yes", "Yes,") == 1.0
    assert bleu("yes", "no") == 0.0
    assert bleu("Place\nthe cup", "place the cup") == pytest.approx(1.0)
    # One of two words is right: BLEU-1 is 1/2; the longer ones, over two words, share no pair.
    assert bleu("left hand", "left foot") == pytest.approx(0.5 / 4, abs=1e-6)
    assert bleu("left hand", "") == 0.0
    # Brevity: two of four words, all right, in order: the penalty is exp(1 - 4/2).
    assert bleu("a b c d", "a b") == pytest.approx(np.exp(-1) * 2 / 4, abs=1e-3)


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Rating: [[0.5]]", 0.5),
        ("good. Rating: [[1]]", 1.0),
        ("[[1.]]", 1.0),
        ("[0]", 0.0),
        ("[[0.6]]", 0.5),
        ("[[0.9]]", 1.0),
        ("[[5]]", None),
        ("Rating: 1", None),
        ("[[-1]]", None),
        ("", None),
    ],
)
def test_verdicts_are_read_from_brackets(reply: str, rating: float | None) -> None:
    assert read_rating(reply) == rating


def test_the_instruction_is_the_published_one_with_everything_in_its_place() -> None:
    text = instruction("What is {answer}?", "the {question}", "a [[1]]")
    assert "[Question]\nWhat is {answer}?\n\n[The Start of Reference Answer]\nthe {question}\n[The End of" in text
    assert text.endswith("[The Start of Assistant's Answer]\na [[1]]\n[The End of Assistant's Answer]")
    assert text.startswith("[Instruction]\nPlease act as an impartial judge and evaluate the quality of the response")
    assert "an image alongwith questions but you will not be given images. Therefore, please consider" in TEMPLATE
    assert 'rate the response with either 0, 0.5 or 1 by strictly following this format: "[[rating]]", for' in TEMPLATE


# -------------------------------------------------------------------------------------------------------------- media


def brightness(clip: Clip) -> list[int]:
    return [round(float(frame.mean()) / 20) for frame in clip.frames]


def clip_of(path: Path, **rules: float) -> Clip:
    shown = show(Media(kind="video", path=str(path)), MediaRules(**rules))  # type: ignore[arg-type]
    assert isinstance(shown, Clip)
    return shown


def test_videos_are_sampled_by_rate_or_number_and_never_beyond_the_limit(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", seconds=1.0, fps=10)  # frame i has brightness i + 1
    four = clip_of(path, fps=4)  # from the first frame to the last, 0.9 s later
    assert (brightness(four), four.fps) == ([1, 4, 7, 10], pytest.approx(3 / 0.9))
    assert four.frames.shape == (4, 48, 64, 3)
    assert brightness(clip_of(path, fps=20)) == list(range(1, 11))  # faster than it was filmed: all there is
    assert (brightness(clip_of(path, frames=2)), clip_of(path, frames=2).fps) == ([1, 10], pytest.approx(1 / 0.9))
    assert len(clip_of(path, fps=10, max_frames=3).frames) == 3


def test_large_media_are_shrunk_to_their_share(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    assert clip_of(path, fps=4, max_video_pixels=4 * 32 * 24).frames.shape == (4, 24, 32, 3)
    write_file(tmp_path / "a.jpg", jpeg(size=(200, 100)))
    shown = show(Media(kind="image", path=str(tmp_path / "a.jpg")), MediaRules(max_image_pixels=5000))
    assert shown.size == (100, 50)  # type: ignore[union-attr]


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4").read_bytes()
    for name, data in (("cut.mp4", whole[: len(whole) // 3]), ("empty.mp4", b""), ("text.jpg", b"no picture")):
        path = write_file(tmp_path / name, data)
        with pytest.raises(MediaError, match=name):
            show(Media(kind="video" if name.endswith("mp4") else "image", path=str(path)), MediaRules())
    with pytest.raises(MediaError, match="gone"):
        show(Media(kind="image", path=str(tmp_path / "gone.jpg")), MediaRules())
    with pytest.raises(UserError, match="fps is 0"):
        MediaRules(fps=0)
