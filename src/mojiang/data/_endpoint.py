"""An OpenAI-compatible endpoint as the `Generator` that data work asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mojiang.core.errors import Unavailable


class EndpointGenerator:
    """Chat completions of one model behind a URL; the key comes from $OPENAI_API_KEY and goes nowhere else."""

    def __init__(self, url: str, model: str) -> None:
        from openai import OpenAI

        self._model, self._url = model, url
        self._client = OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY") or "none", max_retries=3)

    def generate(self, prompts: Sequence[str], *, max_tokens: int, temperature: float, seed: int) -> list[str]:
        """One answer for each prompt, one after another.

        Raises:
            Unavailable: the endpoint cannot be reached, or refuses.
        """
        from openai import OpenAIError

        answers = []
        for number, prompt in enumerate(prompts):
            try:
                done = self._client.chat.completions.create(
                    model=self._model, messages=[{"role": "user", "content": prompt}], max_tokens=max_tokens,
                    temperature=temperature, seed=seed + number,
                )  # fmt: skip
            except OpenAIError as error:
                raise Unavailable(
                    f"{self._url} gives no answer: {error}", hint="check the URL, the model's name and $OPENAI_API_KEY"
                ) from error
            answers.append((done.choices[0].message.content or "").strip())
        return answers
