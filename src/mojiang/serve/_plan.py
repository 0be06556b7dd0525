"""From an API request to what the engine is to do: one `GenerationRequest` per choice."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from mojiang.generate.engine import GenerationRequest, Sampling, healed_prompt, infill_prompt
from mojiang.serve._errors import ApiError
from mojiang.serve._models import ServedModel
from mojiang.serve._schema import ChatRequest, CompletionRequest


@dataclass(frozen=True)
class Plan:
    """The choices of one API request. `echo` is text to show before each choice."""

    choices: tuple[GenerationRequest, ...]
    echo: tuple[str, ...]
    prompt_tokens: int


def plan_chat(body: ChatRequest, model: ServedModel, max_choices: int) -> Plan:
    """Render the conversation in the model's template."""
    limits = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise ApiError(
            400, "max_tokens and max_completion_tokens differ.", code="invalid_value", param="max_completion_tokens"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", code="invalid_value", param="top_logprobs")
    prompt = model.tokenizer.render_chat([m.plain() for m in body.messages], add_generation_prompt=True)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return _plan(body, model, [(prompt, "")], [""], next(iter(limits), None), logprobs, max_choices, "messages")


def plan_completion(body: CompletionRequest, model: ServedModel, max_choices: int) -> Plan:
    """Encode each prompt; with a suffix, as a hole to fill."""
    prompts, echo = _encode_prompts(body, model), [""]
    if body.echo:
        if body.logprobs is not None:
            message = "echo together with logprobs is not supported: prompt tokens are not scored."
            raise ApiError(400, message, code="unsupported_parameter", param="echo")
        echo = [p if isinstance(p, str) else model.tokenizer.decode(p) for p in _split_prompts(body)]
    else:
        echo = [""] * len(prompts)
    # 16 is OpenAI's default here.
    return _plan(body, model, prompts, echo, body.max_tokens or 16, body.logprobs, max_choices, "prompt")


def _split_prompts(body: CompletionRequest) -> list[str | list[int]]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [[t for t in prompt if isinstance(t, int)]]
    return [p for p in prompt if not isinstance(p, int)]


def _encode_prompts(body: CompletionRequest, model: ServedModel) -> list[tuple[list[int], str]]:
    """Each prompt as ids and the text its answer has to begin with (see `generate._heal`).

    With logprobs the prompt stays as it is, so that what is scored is exactly what the model adds.
    """
    tokenizer, encoded = model.tokenizer, []
    for prompt in _split_prompts(body):
        if body.suffix and not isinstance(prompt, str):
            raise ApiError(400, "suffix needs a prompt of text, not tokens.", code="invalid_value", param="suffix")
        if isinstance(prompt, str):
            if body.suffix:
                tokens, begins = infill_prompt(tokenizer, prompt, body.suffix), ""
            elif body.logprobs is not None:
                tokens, begins = [*tokenizer.start_ids, *tokenizer.encode(prompt)], ""
            else:
                tokens, begins = healed_prompt(tokenizer, prompt)
        else:
            tokens, begins = prompt, ""
        # Nothing to continue: begin a document.
        encoded.append((tokens or tokenizer.start_ids, begins))
    if not encoded:
        raise ApiError(400, "prompt is an empty list.", code="invalid_value", param="prompt")
    return encoded


def _plan(
    body: ChatRequest | CompletionRequest,
    model: ServedModel,
    prompts: list[tuple[list[int], str]],
    echo: list[str],
    max_tokens: int | None,
    logprobs: int | None,
    max_choices: int,
    field: str,
) -> Plan:
    copies = body.n or 1
    if len(prompts) * copies > max_choices:
        message = f"{len(prompts)} prompts × n={copies} is more than the {max_choices} choices allowed per request."
        raise ApiError(400, message, code="too_many_choices", param="n" if copies > 1 else field)
    context = model.engine.context
    lengths = [len(prompt) + len(model.tokenizer.encode(begins)) for prompt, begins in prompts]
    for length in lengths:
        if length >= context:
            message = (
                f"This model's maximum context length is {context} tokens, and an answer needs at least one; "
                f"your {field} resulted in {length} tokens. Please shorten it."
            )
            raise ApiError(400, message, code="context_length_exceeded", param=field)
    seed = secrets.randbits(63) if body.seed is None else body.seed
    choices = tuple(
        GenerationRequest(
            prompt=tuple(prompt),
            max_tokens=max_tokens,
            sampling=Sampling(
                temperature=1.0 if body.temperature is None else body.temperature,
                top_k=body.top_k or 0,
                top_p=1.0 if body.top_p is None else body.top_p,
                seed=seed + copy,
            ),
            stop=body.stops,
            logprobs=logprobs,
            begins=begins,
        )
        for prompt, begins in prompts
        for copy in range(copies)
    )
    for choice in choices:
        model.engine.check(choice)
    return Plan(choices, tuple(e for e in echo for _ in range(copies)), sum(lengths))
