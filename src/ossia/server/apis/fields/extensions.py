"""Request fields that several APIs share, and fields of other servers: supported, or named in a warning.

In: requests of Chat Completions, Completions and Responses. Out: their fields as types, and warnings.
Sources: vLLM, SGLang, llama.cpp's server, Ollama, TGI and OpenRouter. Other unknown fields are ignored: OpenAI's clients
send many that mean nothing to a local server. Each class adds fields to the one before. Completions takes all but those
about thinking; Chat Completions and Responses take all.
"""

from typing import Any

from msgspec import Struct


class NotHonoured(Struct, kw_only=True):
    """Fields of other servers without effect here. Values other than the default get a warning."""

    adapter_id: Any = None
    add_special_tokens: Any = None
    allowed_token_ids: Any = None
    audio: Any = None
    bad_words: Any = None
    cache_prompt: Any = None
    cache_salt: Any = None
    chat_template: Any = None
    custom_logit_processor: Any = None
    custom_params: Any = None
    data_parallel_rank: Any = None
    decoder_input_details: Any = None
    details: Any = None
    do_sample: Any = None
    documents: Any = None
    dry_allowed_length: Any = None
    dry_base: Any = None
    dry_multiplier: Any = None
    dry_penalty_last_n: Any = None
    dry_sequence_breakers: Any = None
    dynatemp_exponent: Any = None
    dynatemp_range: Any = None
    early_stopping: Any = None
    extra_body: Any = None
    grammar_lazy: Any = None
    grammar_triggers: Any = None
    guided_decoding_backend: Any = None
    guided_whitespace_pattern: Any = None
    id_slot: Any = None
    images: Any = None
    include_stop_str_in_output: Any = None
    keep_alive: Any = None
    kv_transfer_params: Any = None
    length_penalty: Any = None
    logits_processors: Any = None
    logprob_start_len: Any = None
    lora: Any = None
    lora_path: Any = None
    lora_request: Any = None
    max_length: Any = None
    max_new_tokens: Any = None
    media_io_kwargs: Any = None
    min_keep: Any = None
    min_length: Any = None
    mirostat: Any = None
    mirostat_eta: Any = None
    mirostat_tau: Any = None
    mm_processor_kwargs: Any = None
    modalities: Any = None
    models: Any = None
    n_discard: Any = None
    n_indent: Any = None
    n_keep: Any = None
    n_predict: Any = None
    n_probs: Any = None
    no_stop_trim: Any = None
    num_predict: Any = None
    options: Any = None
    parse_tool_calls: Any = None
    penalize_nl: Any = None
    penalty_alpha: Any = None
    plugins: Any = None
    post_sampling_probs: Any = None
    prediction: Any = None
    priority: Any = None
    prompt_logprobs: Any = None
    provider: Any = None
    raw: Any = None
    repeat_last_n: Any = None
    response_fields: Any = None
    return_full_text: Any = None
    return_hidden_states: Any = None
    return_progress: Any = None
    return_token_ids: Any = None
    return_tokens: Any = None
    return_tokens_as_token_ids: Any = None
    rid: Any = None
    route: Any = None
    samplers: Any = None
    session_id: Any = None
    session_params: Any = None
    skip_special_tokens: Any = None
    spaces_between_special_tokens: Any = None
    stop_regex: Any = None
    stream_reasoning: Any = None
    structural_tag: Any = None
    t_max_predict_ms: Any = None
    template: Any = None
    tfs_z: Any = None
    thinking_forced_open: Any = None
    timings_per_token: Any = None
    top_a: Any = None
    top_logprobs_num: Any = None
    top_n_sigma: Any = None
    top_n_tokens: Any = None
    transforms: Any = None
    truncate: Any = None
    truncate_prompt_tokens: Any = None
    typical_p: Any = None
    use_beam_search: Any = None
    vllm_xargs: Any = None
    watermark: Any = None
    xtc_probability: Any = None
    xtc_threshold: Any = None


class SamplingFields(NotHonoured, kw_only=True):
    """OpenAI's sampling fields, and more by vLLM's names. repeat_penalty: llama.cpp's name of repetition_penalty."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None


class FormExtensions(SamplingFields, kw_only=True):
    """The answer's form: guided_* and structured_outputs are vLLM's, regex and ebnf SGLang's, json_schema and grammar
    llama.cpp's (TGI's grammar is an object), format Ollama's.
    """

    guided_json: Any = None
    guided_json_object: bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None
    json_schema: Any = None
    grammar: str | dict[str, Any] | None = None
    format: str | dict[str, Any] | None = None


class ThinkingExtensions(FormExtensions, kw_only=True):
    """The amount of thinking, and whether it is shown: think is Ollama's, include_reasoning OpenRouter's, reasoning_format
    Groq's and llama.cpp's, separate_reasoning SGLang's, the rest vLLM's and Qwen's.
    """

    think: bool | str | None = None
    enable_thinking: bool | None = None
    thinking: bool | dict[str, Any] | None = None
    thinking_budget: int | None = None
    thinking_token_budget: int | None = None
    include_reasoning: bool | None = None
    separate_reasoning: bool | None = None
    reasoning_format: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class OssiaFields(Struct):
    """The first lines of the system message, for this request. "none" omits a line."""

    identity: str | None = None
    knowledge_cutoff: str | None = None
    date: str | None = None


# Default values, which need no warning. false, 0, "" and empty lists and objects never need one.
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "cache_prompt": (True,),
    "do_sample": (True,),
    "dry_allowed_length": (2,),
    "dry_base": (1.75,),
    "dry_penalty_last_n": (-1,),
    "dry_sequence_breakers": (["\n", ":", '"', "*"],),
    "dynatemp_exponent": (1.0,),
    "id_slot": (-1,),
    "logprob_start_len": (-1,),
    "n_predict": (-1,),
    "num_predict": (-1,),
    "parse_tool_calls": (True,),
    "t_max_predict_ms": (-1,),
    "guided_decoding_backend": ("auto", "guidance"),
    "length_penalty": (1.0,),
    "mirostat_eta": (0.1,),
    "mirostat_tau": (5.0,),
    "modalities": (["text"],),
    "repeat_last_n": (-1,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stream_reasoning": (True,),
    "tfs_z": (1.0,),
    "top_n_sigma": (-1, -1.0),
    "truncate_prompt_tokens": (-1,),
    "typical_p": (1.0,),
    "xtc_threshold": (0.1,),
}
MAX_LISTED = 8  # fields named in a warning


def not_honoured(request: NotHonoured, **more: object) -> list[str]:
    """A warning that names fields without effect. more: fields of one API only."""
    given = {name: getattr(request, name) for name in NotHonoured.__struct_fields__} | more
    named = [name for name, value in given.items() if value and value not in DEFAULTS.get(name, ())]
    if not named:
        return []
    others = f" and {len(named) - MAX_LISTED} more" if len(named) > MAX_LISTED else ""
    return [f"not supported, so without effect: {', '.join(named[:MAX_LISTED])}{others}"]
