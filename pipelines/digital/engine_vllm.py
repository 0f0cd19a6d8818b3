"""Generation with vLLM: one engine an actor, continuous batching, several GPUs an engine if the model needs them."""

import os
from collections.abc import Sequence
from typing import Any

from blm.pipelines.digital.engine import Ask, Reply, clips, pictures, prompt_of, reply_of, stop_tokens, video_facts
from blm.pipelines.digital.item import Decoding

MAX_LENGTH = 32768
"""Most tokens of question and answer, unless asked otherwise: vLLM sets memory aside for one such sequence."""


class VllmEngine:
    """A `vllm.LLM` and the folder's processor in this process."""

    def __init__(
        self,
        *,
        model: str,
        device: str,
        dtype: str,
        max_length: int = 0,
        tensor_parallel: int = 1,
        max_images: int = 1,
        max_videos: int = 1,
        max_sequences: int = 32,
        memory: float = 0.9,
    ) -> None:
        """Load a folder or hub name; takes most of a minute.

        max_length: tokens of question and answer; 0: what the model declares, at most MAX_LENGTH. tensor_parallel: GPUs
        of this engine. max_images, max_videos: of one question. max_sequences: answered side by side. memory: share of
        a GPU's memory; on a CPU, GB of KV cache. UserError if the model cannot be loaded.
        """
        if device == "cpu":
            set_cpu_environment(memory)
        from transformers.utils import logging
        from vllm import LLM

        from blm.model.backbone import load_config, load_processor

        logging.set_verbosity_error()  # notices of coming releases, once a worker
        config = load_config(model)
        self._processor = load_processor(model)
        declared = config.get_text_config().max_position_embeddings
        self._max_length = min(max_length or min(declared, MAX_LENGTH), declared)
        options: dict[str, Any] = {"gpu_memory_utilization": memory, "tensor_parallel_size": tensor_parallel}
        if tensor_parallel > 1:
            options["distributed_executor_backend"] = "mp"  # all GPUs are this actor's own
        self._llm = LLM(
            model=model,
            dtype=dtype,
            max_model_len=self._max_length,
            max_num_seqs=max_sequences,
            limit_mm_per_prompt={"image": max_images, "video": max_videos},
            generation_config="vllm",  # decoding is the benchmark's, not the folder's
            seed=0,
            disable_log_stats=True,
            **({"enforce_eager": True} if device == "cpu" else options),
        )
        generation = getattr(config, "eos_token_id", None) or config.get_text_config().eos_token_id
        self._stop = stop_tokens(self._processor.tokenizer, generation)

    def answer(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each question, in order."""
        from vllm.exceptions import VLLMValidationError

        try:
            return self._answer(asks)
        except (ValueError, VLLMValidationError) as error:  # one question too long fails all that were given with it
            if len(asks) == 1:
                return [Reply(error=str(error).strip().splitlines()[0])]
            return [reply for ask in asks for reply in self.answer([ask])]

    def _answer(self, asks: Sequence[Ask]) -> list[Reply]:
        prompts = [{"prompt": prompt_of(self._processor, ask), "multi_modal_data": _media(ask)} for ask in asks]
        parameters = [self._parameters(ask.decoding) for ask in asks]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        return [reply_of(self._processor.tokenizer, output.outputs[0].token_ids, self._stop) for output in outputs]

    def _parameters(self, decoding: Decoding) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=decoding.seed,
            stop_token_ids=self._stop,
        )


def _media(ask: Ask) -> dict[str, Any]:
    """A question's media as vLLM wants them: pictures, and frames with what is known of them."""
    found: dict[str, Any] = {}
    if images := pictures(ask):
        found["image"] = images
    if videos := clips(ask):
        found["video"] = [(clip.frames, video_facts(clip) | {"do_sample_frames": False}) for clip in videos]
    return found


def set_cpu_environment(memory_gb: float) -> None:
    """What vLLM on a CPU reads from the environment when it is imported; what is set already stays."""
    for name, value in {
        "VLLM_CPU_KVCACHE_SPACE": f"{max(round(memory_gb), 1)}",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the default would pin every engine to the same core
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, where two more would each import vLLM for ten seconds
        "VLLM_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)
