"""The inference engine: cached decoding, continuous batching, sampling, streaming.

`engine.Engine` is the door, for the server and for offline use alike. `generate` sits below `train` and `serve`:
evaluation and reinforcement learning call it in process, and HTTP is only queues and routing around it.

    _prompt      text → token ids: chat, fill in the middle, and the tokens that end an answer
    _scheduler   who runs: a bounded queue and a fixed number of slots
    _cache       keys and values: one pre-allocated slab per slot
    _runner      the model calls, in shapes that make a row's bits independent of its batch
    _sampler     logits → token, random by (seed, position)
    _detokenize  tokens → text, never half a character
    _stop        stop strings, also across token borders
    _seq2seq     encoder–decoder models: greedy and beam search, many sources at once
"""

GENERATE: dict[str, tuple[str, str]] = {}
