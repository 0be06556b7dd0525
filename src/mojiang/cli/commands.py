"""The commands beside the recipes, as one literal table: word → (function, summary, arguments).

Strings only, so that `mojiang --help` imports none of the code behind them.
"""

from __future__ import annotations

from typing import Any

Argument = tuple[tuple[str, ...], dict[str, Any]]


def _arg(*flags: str, **settings: Any) -> Argument:
    return flags, settings


REF = _arg("ref", help="name, name@version, name@alias, a fingerprint prefix, or a path")
WHY_DROPPED = _arg(
    "--why-dropped",
    metavar="DOC",
    default="",
    help="where and why a document (path, or beginning of an id) was dropped",
)
SETTINGS = _arg("--set", action="append", default=[], metavar="KEY=VALUE", help="change a parameter or step.key")
SEED = _arg("--seed", type=int, default=0, help="seed of everything random (default 0)")
DEVICE = _arg("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where tensors live")
ENGINE = _arg("--engine", choices=["local", "ray"], default="local", help="what runs data work")
WORKERS = _arg("--workers", type=int, default=None, help="processes for data work (default: one per core)")
TRACK = _arg(
    "--track", action="append", default=[], choices=["tensorboard", "wandb", "mlflow"],
    help="also write curves and settings for this tracker; may be given several times")  # fmt: skip
DRY_RUN = _arg("--dry-run", action="store_true", help="show what would run, and run nothing")

COMMANDS: dict[str, dict[str, tuple[str, str, list[Argument]]]] = {
    "the main job": {
        "quickstart": ("pipelines:quickstart", "raw text to a served, gated model, on this machine", [
            _arg("--data", default=None, help="a file or folder of text (default: Python's standard library)"),
            _arg("--minutes", type=float, default=None, help="time budget for the whole job (default 10)"),
            _arg("--serve", action="store_true", default=False, help="keep the endpoint up when done"),
            _arg("--no-serve", dest="serve", action="store_false", help="try the endpoint, then stop it (default)"),
            SETTINGS, SEED, DEVICE, ENGINE, WORKERS, TRACK, DRY_RUN]),
        "run": ("pipelines:run", "run a pipeline; steps already done are skipped", [
            _arg("file", help="a pipeline's YAML file, or the name of one shipped with Mojiang"),
            _arg("--from", dest="start", default="", metavar="STEP", help="take earlier steps as they were made last"),
            SETTINGS, SEED, DEVICE, ENGINE, WORKERS, TRACK, DRY_RUN]),
    },
    "the store": {
        "ls": ("store:ls", "list artifacts", [
            _arg("kind", nargs="?", default="", help="dataset, tokenizer, model or report")]),
        "show": ("store:show", "one artifact: config, metrics, files, report", [
            REF, WHY_DROPPED]),
        "lineage": ("store:lineage", "where an artifact came from, back to the source files", [REF, WHY_DROPPED]),
        "diff": ("store:diff", "what differs between two artifacts, and why", [
            _arg("ref", help="the first REF"), _arg("other", help="the second REF")]),
        "alias": ("store:alias", "give an artifact an alias", [REF, _arg("name", help="such as best")]),
        "rm": ("store:rm", "remove an artifact", [
            REF, _arg("--force", action="store_true", help="even when it is used")]),
        "gc": ("store:gc", "remove what nothing refers to", [
            _arg("--dry-run", action="store_true", help="only list it")]),
        "export": ("store:export", "copy an artifact out of the store", [REF, _arg("dir", help="a new folder")]),
        "import": ("store:import_", "bring a folder into the store", [
            _arg("dir", help="an exported artifact or a Hugging Face folder"),
            _arg("--name", default="", help="its name (default: the folder's)")]),
    },
    "runs": {
        "runs": ("runs:runs", "list runs", []),
        "logs": ("runs:logs", "what a run said", [
            _arg("run", help="a run's id, a beginning of it, or last"),
            _arg("-f", "--follow", action="store_true", help="go on until the run ends")]),
        "stop": ("runs:stop", "stop a run cleanly", [_arg("run", help="a run's id")]),
        "resume": ("runs:resume", "continue an interrupted or failed run", [
            _arg("run", help="a run's id"), DEVICE, ENGINE, WORKERS, TRACK]),
    },
    "evidence": {
        "card": ("evidence:card", "the card of a model or a dataset, generated from the store", [
            REF, _arg("--out", default="", metavar="DIR", help="also copy it here")]),
        "gate": ("evidence:gate", "check a model against a policy (exit 3: refused)", [
            REF, _arg("--policy", default="", help="a policy's YAML file (default: the one shipped)")]),
        "promote": ("evidence:promote", "give an alias such as prod, if the gate passes", [
            REF, _arg("name", help="the alias"), _arg("--policy", default="", help="a policy's YAML file")]),
    },
    "use a model": {
        "serve": ("use:serve", "serve models over an OpenAI-compatible API", [
            _arg("ref", nargs="+", help="one or more models"),
            _arg("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"),
            _arg("--port", type=int, default=8000, help="port (default 8000; 0 picks a free one)"),
            _arg("--dtype", choices=["float32", "bfloat16"], default="float32", help="arithmetic (default float32)"),
            _arg("--slots", type=int, default=8, help="requests computed at once, per model (default 8)"),
            _arg("--max-queue", type=int, default=64, help="requests that may wait; more get 429 (default 64)"),
            _arg("--backend", choices=["native"], default="native", help="what computes"),
            _arg("--api-key", default=None, help="ask clients for this key (or set MOJIANG_API_KEY)"), DEVICE]),
        "chat": ("use:chat", "chat with a model in the terminal", [
            REF, _arg("--system", default="", help="system prompt"), _arg("--temperature", type=float, default=0.7),
            _arg("--max-tokens", type=int, default=256), SEED, DEVICE]),
        "complete": ("use:complete", "let a model continue a text", [
            REF, _arg("prompt", nargs="?", default=None, help="the text (default: each line of standard input)"),
            _arg("--suffix", default=None, help="fill in between the prompt and this"),
            _arg("--temperature", type=float, default=0.0), _arg("--max-tokens", type=int, default=128), SEED, DEVICE]),
    },
    "find your way": {
        "find": ("find:find", "search capabilities and commands", [_arg("word", help="a word")]),
        "list": ("find:list_", "every capability with its summary", []),
        "explain": ("find:explain", "what a capability does, its settings and an example", [
            _arg("name", metavar="GROUP.RECIPE", help="such as train.sft")]),
        "plugins": ("find:plugins", "who added which capability", []),
        "doctor": ("find:doctor", "what this machine can do and what is missing", []),
    },
}  # fmt: skip


def find_command(word: str) -> tuple[str, str, list[Argument]] | None:
    """The command of that word."""
    for commands in COMMANDS.values():
        if word in commands:
            return commands[word]
    return None
