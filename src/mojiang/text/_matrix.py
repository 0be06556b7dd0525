"""scipy's sparse matrices, which are an extra; the one place where scipy is imported."""

from __future__ import annotations

from typing import Any

from mojiang.core.errors import Unavailable


def csr_matrix(*parts: Any, **options: Any) -> Any:
    """`scipy.sparse.csr_matrix` of these parts.

    Raises:
        Unavailable: scipy is not installed.
    """
    try:
        from scipy.sparse import csr_matrix as made
    except ModuleNotFoundError as error:
        raise Unavailable("scipy is not installed", hint="pip install 'mojiang[nlp]'") from error
    return made(*parts, **options)
