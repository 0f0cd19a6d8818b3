"""Messages as OpenAI's interface takes them, and ms-swift's: text, or typed parts with their pictures among the words.

    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}},
                                               {"type": "text", "text": "What is it?"}]}, ...]}

ms-swift keeps pictures beside the messages, and a video there may be a list of frames; both are read here as well.
"""

from collections.abc import Iterator

from blm.pipelines.datasets.readers.fields import Sample
from blm.pipelines.datasets.readers.llava import read as read_conversation
from blm.pipelines.datasets.readers.record import Fault, Options, Place, Record


def read(sample: Sample, place: Place, options: Options) -> Iterator[Record]:
    """The conversation of one sample; turns and media are read as beside LLaVA's conversations."""
    turns = sample.get("messages")
    for turn in turns if isinstance(turns, list | tuple) else ():
        if isinstance(turn, dict) and turn.get("tool_calls"):
            raise Fault("not_supported", "a turn that calls tools")
    yield from read_conversation(sample, place, options)
