"""Model architectures with Hugging Face parameter names, reading and writing folders, and models from elsewhere."""

from mojiang.core.catalog import lazy

MODEL = {
    "fetch": ("mojiang.model.fetch:Fetch", "Bring in a model: a Hugging Face folder, hf:org/name or a GGUF file"),
    "extend": ("mojiang.model.extend:Extend", "Add tokens learned from a corpus to a language model"),
}

__getattr__ = lazy(__name__, MODEL)
