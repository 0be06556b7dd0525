"""Training: every way to change a model's weights, on one loop.

A capability says what is trained on (a source of batches) and for (an objective: sums and counts); the rest is shared.

_settings    what every recipe can be told: length, optimizer, compute, what is watched
_session     the way of every recipe: settle the settings, compile, resume, train, say how it went
_loop        the only loop: micro-batches, optimizer step, checkpoint, validation
_objective   what a loss is: a sum over a batch, and what it is divided by
_batches     sources from which any step's batch can be had at any time
_losses      the losses as pure functions
_optim       Muon, AdamW (also in 8 bits), SGD, RMSprop, LAMB
_schedule    learning rates over the steps
_parallel    several processes: ddp, fsdp, tensor, pipeline
_checkpoint  state that survives kill -9
_memory      activation checkpointing, micro-batches that fit
_forecast    what a training is going to take, and what it took
_plan        the one dial: minutes → shape and steps
_audit       are the labels what they should be?
"""

from mojiang.core.catalog import lazy

TRAIN = {
    "pretrain": ("mojiang.train.pretrain:Pretrain", "Train a language model from scratch on packed documents"),
    "sft": ("mojiang.train.sft:SFT", "Supervised fine-tuning of a model on conversations"),
    "lora": ("mojiang.train.lora:Lora", "Fine-tune on conversations through LoRA, rsLoRA, DoRA or QLoRA adapters"),
    "reward": ("mojiang.train.reward:Reward", "A model that scores answers, learnt from preferred and rejected ones"),
    "dpo": ("mojiang.train.dpo:DPO", "Learn from preferences: DPO, IPO, ORPO and KTO"),
    "grpo": ("mojiang.train.grpo:GRPO", "Reinforcement learning from rewards that a function can verify"),
    "classify": ("mojiang.train.classify:Classify", "Classify texts: fine-tuned encoders, TextCNN, LSTM, GRU"),
    "image_classify": ("mojiang.train.image_classify:ImageClassify", "Classify images: ResNet, LeNet, ViT"),
    "tagging": (
        "mojiang.train.tagging:Tagging",
        "Label words (names, parts of speech): encoders, BiLSTM-CRF",
    ),
    "span": ("mojiang.train.span:Span", "Extractive question answering: find the answer in a text"),
    "seq2seq": ("mojiang.train.seq2seq:Seq2Seq", "Write a target for a source: T5, BART, Marian, LSTM, GRU"),
    "elmo": ("mojiang.train.elmo:ELMo", "Vectors of words in their sentence, from two language models of words"),
    "contrastive": ("mojiang.train.contrastive:Contrastive", "Sentence embeddings from pairs, with GradCache"),
    "distill": (
        "mojiang.train.distill:Distill",
        "A small model learns a larger one's scores, states or answers",
    ),
    "plan": ("mojiang.train.plan:Plan", "Say what a training will take before it begins: memory, speed, time"),
    "sweep": ("mojiang.train.sweep:Sweep", "Search the settings of a recipe that are best by a metric, with Optuna"),
    "crossval": ("mojiang.train.crossval:Crossval", "Train a classifier on k folds: mean and spread of its figures"),
}

__getattr__ = lazy(__name__, TRAIN)
