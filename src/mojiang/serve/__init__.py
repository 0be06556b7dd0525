"""Serving over HTTP, in OpenAI's protocol: only HTTP, queues and routing; the work is done by `generate`.

openai    the application: endpoints from request to answer
server    the service: socket, signals, drain; `serve` is what `mojiang serve` calls
chat      the same models in the terminal: `mojiang chat`, `mojiang complete`
"""

SERVE: dict[str, tuple[str, str]] = {}
