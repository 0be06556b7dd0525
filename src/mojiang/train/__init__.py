"""Training: every way to change a model's weights, on one loop.

_loop        the only loop: micro-batches, optimizer step, checkpoint, validation, progress
_optim       Muon and AdamW
_schedule    warm-up, stable, decay
_checkpoint  state that survives kill -9
_plan        the one dial: minutes → shape, steps, batch
_peak        the fastest matrix product of this machine
_audit       are the labels what they should be?
"""

from mojiang.core.catalog import lazy

TRAIN = {
    "pretrain": ("mojiang.train.pretrain:Pretrain", "Train a language model from scratch on packed documents"),
    "sft": ("mojiang.train.sft:SFT", "Supervised fine-tuning of a model on conversations"),
}

__getattr__ = lazy(__name__, TRAIN)
