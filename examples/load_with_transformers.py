"""A Mojiang model is an ordinary Hugging Face folder: load it with transformers and compare the logits.

python examples/load_with_transformers.py MODEL_FOLDER
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mojiang.model.load import load_model


def main(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ours = load_model(Path(folder))
    tokens = tokenizer("def area(width, height):\n    return", return_tensors="pt").input_ids
    with torch.no_grad():
        difference = (ours.logits(ours(tokens)) - theirs(tokens).logits).abs().max().item()
    print(f"largest difference of {tokens.numel()} x {ours.config.vocab_size} logits: {difference:.2e}")
    if difference > 1e-4:
        sys.exit("the logits differ")


if __name__ == "__main__":
    main(sys.argv[1])
