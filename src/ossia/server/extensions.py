"""Fields of other servers' requests: what is honoured here too, and what is named in a warning.

In: requests of Chat Completions, Completions and Responses. Out: their fields as types, and warnings in words.
Sources: vLLM, SGLang, llama.cpp's server, Ollama, TGI and OpenRouter. Any other unknown field is ignored, as OpenAI's
clients send many that mean nothing to a local server.
"""

from msgspec import Struct


class SamplingExtensions(Struct, kw_only=True):
    """Sampling beyond OpenAI's, by vLLM's names."""

    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
