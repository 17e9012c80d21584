"""The shape of a gpt-oss model: one frozen dataclass, its presets, and both layouts of config.json.

In: a preset's name or a parsed config.json (Hugging Face's or the original one). Out: `ModelConfig`.
It does not know tensors, files or devices.
"""
