"""From a folder of text to a trained model through the SDK.

python examples/from_text_to_model.py FOLDER [WORKSPACE]
"""

import sys

import mojiang


def main(folder: str, workspace: str = ".mojiang") -> None:
    store = mojiang.open(workspace)
    mojiang.data.Load(source=folder).execute(store, name="corpus")
    mojiang.data.Dedup(data="corpus").execute(store, name="unique")
    mojiang.data.Split(data="unique").execute(store, name="split")
    mojiang.tokenizer.BPE(data="split").execute(store, name="bpe")
    model = mojiang.train.Pretrain(data="split", tokenizer="bpe", steps=20, depth=2).execute(store, name="base")
    report = mojiang.evaluate.HeldOut(model="base", data="split", samples=0).execute(store)
    print(f"{model.ref} in {model.path}")
    print(f"{report.metrics['bits_per_byte']:.3f} bits per byte (gzip {report.metrics['gzip_bits_per_byte']:.3f})")
    for ancestor in store.lineage(model):
        print(f"  {ancestor.ref:12} {ancestor.manifest.recipe}")


if __name__ == "__main__":
    main(*sys.argv[1:])
