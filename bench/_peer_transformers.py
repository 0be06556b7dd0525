"""`transformers` Trainer, PEFT and TRL, and a bare loop over the same model, as workers (see `_gate.py`).

Each is given its own best reasonable settings: fused AdamW (the Trainer's default), as many threads as we have,
`torch.compile` where the comparison says so, no checkpoints, no reporting. Two things are as ours, so that losses can
be compared: rows come in the order of the file, and the learning rate is constant.
"""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from _gate import Facts, Gate, serve
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

IGNORE = -100
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl")


def load(work: Facts) -> Any:
    """The shared weights; the base of a LoRA may be held in bf16, as is common."""
    dtype = torch.bfloat16 if work.get("base") == "bf16" else torch.float32
    return AutoModelForCausalLM.from_pretrained(work["folder"], dtype=dtype)


def arguments(work: Facts, **more: Any) -> dict[str, Any]:
    """The Trainer's defaults but for what makes the comparison one."""
    return {
        "output_dir": tempfile.mkdtemp(prefix="bench-"), "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "logging_steps": 1,
        "per_device_train_batch_size": work.get("micro_rows", work["batch_rows"]),
        "gradient_accumulation_steps": work["batch_rows"] // work.get("micro_rows", work["batch_rows"]),
        "learning_rate": work["learning_rate"], "lr_scheduler_type": "constant", "adam_beta2": 0.95,
        "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": work["precision"] == "bf16",
        "torch_compile": work["compile"], "use_cpu": work.get("device", "cpu") == "cpu",
        "train_sampling_strategy": "sequential", "seed": work.get("seed", 0), **more,
    }  # fmt: skip


class Turns(TrainerCallback):
    """Waits at the gate before a step, and passes on the losses the Trainer logs."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.gate.at(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.gate.losses.append(float(logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.gate.at(state.global_step)


def on_device(work: Facts, gate: Gate) -> torch.device:
    device = torch.device(work.get("device", "cpu"))
    if device.type == "cuda":
        gate.synchronise = torch.cuda.synchronize
    return device


class RowsOfTokens(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Full rows: inputs and labels are the same tokens, which the model shifts, as `transformers` has it."""

    def __init__(self, work: Facts) -> None:
        tokens = np.load(work["rows"])[:, :-1].astype(np.int64)
        self.tokens = torch.from_numpy(tokens[np.arange(work["steps"] * work["batch_rows"]) % len(tokens)])

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[number], "labels": self.tokens[number]}


def pretrain(work: Facts, gate: Gate) -> Facts:
    """Full rows through the Trainer; with `lora`, only the adapters that PEFT puts beside every linear layer."""
    on_device(work, gate)
    rows, model = RowsOfTokens(work), load(work)
    if "lora" in work:
        model = with_adapters(model, work["lora"])
    gate.plan([work["batch_rows"] * rows.tokens.shape[1]] * work["steps"])
    settings = TrainingArguments(**arguments(work, max_steps=work["steps"]))
    Trainer(model=model, args=settings, train_dataset=rows, callbacks=[Turns(gate)]).train()
    return {}


def with_adapters(model: nn.Module, rank: int) -> nn.Module:
    import peft

    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return peft.get_peft_model(model, config)  # type: ignore[arg-type]


def bare(work: Facts, gate: Gate) -> Facts:
    """The same model in the shortest loop there is: compiled, autocast, fused AdamW, nothing else."""
    device = on_device(work, gate)
    rows, model = RowsOfTokens(work).tokens, load(work).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=work["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    forward = torch.compile(model) if work["compile"] else model
    gate.plan([work["batch_rows"] * rows.shape[1]] * work["steps"])
    micro = work.get("micro_rows", work["batch_rows"])
    for step in range(work["steps"]):
        gate.at(step)
        total = torch.zeros((), device=device)
        for first in range(step * work["batch_rows"], (step + 1) * work["batch_rows"], micro):
            tokens = rows[first : first + micro].to(device)
            with autocast(work, device):
                loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss * (micro / work["batch_rows"])
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        gate.losses.append(total.item())
    gate.at(work["steps"])
    return {}


def autocast(work: Facts, device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16) if work["precision"] == "bf16" else nullcontext()


def read_conversations(work: Facts) -> tuple[list[dict[str, list[int]]], list[dict[str, list[int]]]]:
    """Conversations to train on and held out: token ids, and labels that leave out all but the answers."""
    saved = np.load(work["conversations"])
    stops = np.cumsum(saved["lengths"])
    sides: tuple[list[dict[str, list[int]]], list[dict[str, list[int]]]] = ([], [])
    for start, stop, held_out in zip(stops - saved["lengths"], stops, saved["held_out"], strict=True):
        ids = saved["tokens"][start:stop].astype(np.int64)
        labels = np.where(saved["trained"][start:stop], ids, IGNORE)
        sides[int(held_out)].append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    return sides


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """What `DataCollatorForSeq2Seq` does: up to the longest of the batch, to a multiple of 8."""
    longest = -(-max(len(row["input_ids"]) for row in rows) // 8) * 8

    def filled(name: str, fill: int) -> Tensor:
        return torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in rows])

    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    mask = (torch.arange(longest) < lengths).long()
    return {"input_ids": filled("input_ids", 0), "attention_mask": mask, "labels": filled("labels", IGNORE)}


def sft(work: Facts, gate: Gate) -> Facts:
    """An epoch of conversations: padded (as they come, or grouped by length), flattened, or packed by TRL."""
    device = on_device(work, gate)
    train, held_out = read_conversations(work)
    model = load(work)
    more: dict[str, Any] = {"num_train_epochs": 1}
    if work["method"] == "trl":
        trainer, tokens = packed_by_trl(work, model, train, more)
    else:
        collate: Any = padded
        if work["method"] == "flattened":
            collate = transformers.DataCollatorWithFlattening()
        if work["method"] == "grouped":
            more["train_sampling_strategy"] = "group_by_length"
        trainer = Trainer(model=model, args=TrainingArguments(**arguments(work, **more)), train_dataset=train,  # type: ignore[arg-type]
                          data_collator=collate)  # fmt: skip
        lengths = [len(train[number]["input_ids"]) for number in trainer._get_train_sampler()]  # type: ignore[union-attr]
        tokens = [sum(lengths[n : n + work["batch_rows"]]) for n in range(0, len(lengths), work["batch_rows"])]
        if work["method"] == "grouped":  # its sampler draws anew when training begins, so only the mean is known
            tokens = [sum(lengths) / len(tokens)] * len(tokens)  # type: ignore[list-item]
    gate.plan(tokens)
    trainer.add_callback(Turns(gate))
    trainer.train()
    return {"held_out_loss": answer_loss(work, model, held_out, device)}


def packed_by_trl(work: Facts, model: Any, train: list[dict[str, list[int]]], more: dict[str, Any]) -> Any:
    """TRL's best-fit packing into rows of the context, documents told apart by their positions."""
    import datasets
    from tokenizers import Tokenizer, models
    from trl import SFTConfig, SFTTrainer

    rows = datasets.Dataset.from_list(train)
    config = SFTConfig(
        **{**arguments(work, **more), "per_device_train_batch_size": work["pack_rows"]}, packing=True,
        packing_strategy="bfd", max_length=work["context"], gradient_checkpointing=False, dataset_num_proc=None,
    )  # fmt: skip
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")),
        pad_token="<pad>", eos_token="<eos>",
    )  # fmt: skip
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    lengths = [len(row) for row in trainer.train_dataset["input_ids"]]  # type: ignore[index]
    return trainer, [sum(lengths[n : n + work["pack_rows"]]) for n in range(0, len(lengths), work["pack_rows"])]


@torch.no_grad()
def answer_loss(work: Facts, model: nn.Module, rows: list[dict[str, list[int]]], device: torch.device) -> float:
    """Nats per trained token of held-out conversations, in the precision of training."""
    model.eval()
    nats, count = 0.0, 0
    for first in range(0, len(rows), 8):
        batch = {name: tensor.to(device) for name, tensor in padded(rows[first : first + 8]).items()}
        labels = batch.pop("labels")[:, 1:]
        with autocast(work, device):
            logits = model(**batch, use_cache=False).logits[:, :-1].float()
        nats += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum").item()
        count += int((labels != IGNORE).sum())
    return nats / max(1, count)


def quality(work: Facts, gate: Gate) -> Facts:
    """Train for so many steps, and look at bits per byte on the way; the clock stands still while it looks."""
    device = on_device(work, gate)
    run = np.load(work["documents_joined"])
    context = work["context"]
    whole = torch.from_numpy(run[: len(run) // context * context].astype(np.int64)).view(-1, context)
    # The Trainer's own shuffling: `train_sampling_strategy="random"` with this seed.
    dataset = [{"input_ids": row, "labels": row} for row in whole]
    held_out = np.load(work["held_out"])
    torch.manual_seed(work["seed"])
    config = transformers.AutoConfig.from_pretrained(work["folder"])
    model = AutoModelForCausalLM.from_config(config)  # its own initialisation, drawn from this seed
    curve: list[tuple[float, float]] = []

    class Looks(TrainerCallback):
        """Measures bits per byte at the steps asked for."""

        started = paused = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            gate.synchronise()
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in work["looks"]:
                gate.synchronise()
                now = time.perf_counter()
                curve.append((now - self.started - self.paused, bits_per_byte(work, model, held_out, device)))
                model.train()
                self.paused += time.perf_counter() - now

    settings = arguments(
        work, max_steps=work["steps"], lr_scheduler_type=work["schedule"], warmup_steps=work["warmup_steps"],
        weight_decay=work["weight_decay"], train_sampling_strategy="random", logging_steps=50,
    )  # fmt: skip
    trainer = Trainer(model=model, args=TrainingArguments(**settings), train_dataset=dataset, callbacks=[Looks()])  # type: ignore[arg-type]
    gate.say(ready=True)
    gate.wait()
    trainer.train()
    return {"curve": curve}


@torch.no_grad()
def bits_per_byte(work: Facts, model: nn.Module, held_out: Any, device: torch.device) -> float:
    """Of stretches of held-out documents, each read by itself."""
    model.eval()
    nats = 0.0
    for first in range(0, len(held_out["tokens"]), 8):
        tokens = torch.from_numpy(held_out["tokens"][first : first + 8].astype(np.int64)).to(device)
        lengths = torch.from_numpy(held_out["lengths"][first : first + 8]).to(device)
        targets = tokens[:, 1:].clone()
        targets[torch.arange(targets.shape[1], device=device) >= lengths[:, None]] = IGNORE
        with autocast(work, device):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum").item()
    return nats / math.log(2) / float(held_out["bytes"].sum())


def vocabulary(work: Facts, gate: Gate) -> Facts:
    """Cross-entropy over a long vocabulary as `transformers` computes it: all logits at once, in fp32."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    torch.manual_seed(0)
    weight = (0.02 * torch.randn(work["vocab"], work["width"])).requires_grad_()
    hidden = torch.randn(1, work["tokens"], work["width"], requires_grad=True)
    targets = torch.randint(0, work["vocab"], (1, work["tokens"]))
    gate.plan([work["tokens"]] * work["steps"])
    before = resident_bytes()
    for step in range(work["steps"]):
        gate.at(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=work["precision"] == "bf16"):
            logits = F.linear(hidden, weight)
        loss = ForCausalLMLoss(logits, targets, work["vocab"], shift_labels=targets)
        loss.backward()
        hidden.grad = weight.grad = None
        gate.losses.append(loss.item())
        del logits, loss
    gate.at(work["steps"])
    return {"before_bytes": before}


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096


TASKS = {"pretrain": pretrain, "bare": bare, "sft": sft, "quality": quality, "vocabulary": vocabulary}

if __name__ == "__main__":
    serve(TASKS, *PACKAGES)
