"""Models of the Hugging Face Hub: which commit a name stands for, and its files, through `huggingface_hub`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mojiang.core.errors import BadInput, BadUsage, NotFound, Unavailable

PREFIX: Final = "hf:"
_NAME: Final = re.compile(r"hf:((?:[\w.-]+/)?[\w.-]+)(?:@([\w./-]+))?")
_COMMIT: Final = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubModel:
    """A model of the Hub at one commit."""

    repo: str
    commit: str


def resolve_name(source: str) -> HubModel:
    """What `hf:org/name` or `hf:org/name@revision` stands for now; a revision that is a commit needs no network.

    Raises:
        BadUsage: the source is spelled otherwise.
        NotFound, BadInput, Unavailable: there is no such model, it is not given to everybody, or the Hub is not there.
    """
    found = _NAME.fullmatch(source)
    if not found:
        raise BadUsage(f"{source!r} is no model of the Hub", hint="write hf:org/name or hf:org/name@revision")
    repo, revision = found[1], found[2]
    if revision and _COMMIT.fullmatch(revision):
        return HubModel(repo, revision)
    with _explained(repo):
        from huggingface_hub import HfApi

        commit = HfApi().model_info(repo, revision=revision).sha
    if not commit:
        raise Unavailable(f"the Hub names no commit of {repo}", hint="give one: hf:org/name@commit")
    return HubModel(repo, commit)


def download(model: HubModel, patterns: Sequence[str]) -> Path:
    """The files of a model that match the patterns, in the Hub's cache on this machine.

    Raises:
        NotFound, BadInput, Unavailable: as `resolve_name`.
    """
    with _explained(model.repo):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model.repo, revision=model.commit, allow_patterns=list(patterns)))


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    try:
        from huggingface_hub import errors
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"hf:{repo} needs the package {error.name}, which is not installed", hint="pip install 'mojiang[hub]'"
        ) from error
    # The HTTP library under the client changes with its version; its errors share the ancestor of the client's own.
    kinds = errors.HfHubHTTPError.__mro__[1:]
    transport: type[Exception] = next(kind for kind in kinds if kind.__name__ == "HTTPError")
    try:
        yield
    except errors.GatedRepoError as error:
        hint = "accept its terms on its page, then `hf auth login`"
        raise BadInput(f"{repo} is only given to people who accepted its terms", hint=hint) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise NotFound(
            f"the Hub has no {repo} at this revision, or does not show it", hint="check the name, or `hf auth login`"
        ) from error
    except errors.HFValidationError as error:
        raise BadUsage(f"{repo!r} is no name of a model: {error}", hint="write hf:org/name") from error
    except (transport, OSError) as error:
        # Offline mode, no network, a server that fails.
        raise Unavailable(
            f"the Hub cannot be reached for {repo}: {error}",
            hint="download the model elsewhere and give its folder, or hf:org/name@commit of one in the cache",
        ) from error
