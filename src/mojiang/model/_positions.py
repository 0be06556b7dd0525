"""Where a token stands: rotary tables and their extensions, sinusoids, ALiBi slopes, T5's buckets.

Tensor names: B rows · T query positions · S key positions · H heads · E head dimension · R = E / 2 rotations
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mojiang.core.errors import BadInput

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn"]

_NEEDED: dict[RopeType, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_OPTIONAL: dict[RopeType, tuple[str, ...]] = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
}


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al. 2021) and how it is stretched beyond the trained context.

    `linear` divides every frequency by `factor` (Chen et al. 2023), `dynamic` raises the base as a row grows longer
    than the trained context (NTK-aware), `llama3` divides the slow frequencies only, `yarn` (Peng et al. 2023) blends
    by frequency and scales the scores. Field names are those of `rope_parameters` in `config.json`.
    """

    rope_theta: float = 10_000.0
    rope_type: RopeType = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    """The trained context; for `dynamic` it is the config's `max_position_embeddings`."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> Rope:
        """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before) of a `config.json`.

        Raises:
            BadInput: a type that is not computed, a key that the type needs and lacks, or rotation of a part of the
                head only.
        """
        given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        kind: RopeType = given.get("rope_type") or given.get("type") or "default"
        if kind not in get_args(RopeType):
            known = ", ".join(get_args(RopeType))
            raise BadInput(f"config.json asks for rope_type={kind!r}", hint=f"computed are {known}")
        if (given.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0) != 1.0:
            raise BadInput("config.json asks for partial_rotary_factor", hint="only whole heads are rotated here")
        if kind in ("llama3", "yarn"):
            trained = config.get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
            if kind == "yarn" and trained and given.get("factor") is None:
                given["factor"] = config["max_position_embeddings"] / trained
            given["original_max_position_embeddings"] = trained or config.get("max_position_embeddings")
        if missing := [key for key in _NEEDED[kind] if given.get(key) is None]:
            raise BadInput(f"rope_type={kind!r} in config.json lacks {', '.join(missing)}", hint="all are needed")
        values = {key: given[key] for key in (*_NEEDED[kind], *_OPTIONAL.get(kind, ())) if given.get(key) is not None}
        if kind == "dynamic":
            values["original_max_position_embeddings"] = config["max_position_embeddings"]
        theta = given.get("rope_theta") or config.get("rope_theta") or 10_000.0
        return cls(rope_theta=float(theta), rope_type=kind, **values)

    def to_hf(self) -> dict[str, Any]:
        """`rope_parameters` as transformers 5 reads them, with the keys that this type uses."""
        used = {key: getattr(self, key) for key in (*_NEEDED[self.rope_type], *_OPTIONAL.get(self.rope_type, ()))}
        named = {key: value for key, value in used.items() if value is not None}
        return {"rope_type": self.rope_type, "rope_theta": self.rope_theta, **named}

    @property
    def attention_scaling(self) -> float:
        """What cosines and sines are multiplied by; YaRN's temperature of the scores, else 1."""
        if self.rope_type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _yarn_scale(self.factor, self.mscale) / _yarn_scale(self.factor, self.mscale_all_dim)
        return _yarn_scale(self.factor, 1.0)

    def frequencies(self, head_dim: int, positions_BT: Tensor) -> Tensor:
        """Radians per position of each rotation: (1, R), or (B, R) for `dynamic`, where they depend on the row.

        A row's length is its largest position, so that it does not depend on what it is batched with.
        """
        exponents_R = torch.arange(0, head_dim, 2, device=positions_BT.device).float() / head_dim
        if self.rope_type == "dynamic":
            trained = self.original_max_position_embeddings
            length_B1 = (positions_BT.amax(dim=1, keepdim=True) + 1).clamp(min=trained).float()
            growth_B1 = (self.factor * length_B1 / trained - (self.factor - 1)) ** (head_dim / (head_dim - 2))
            return 1.0 / (self.rope_theta * growth_B1) ** exponents_R
        plain_1R = 1.0 / (self.rope_theta**exponents_R)[None]
        if self.rope_type == "linear":
            return plain_1R / self.factor
        if self.rope_type == "llama3":
            return self._llama3(plain_1R)
        if self.rope_type == "yarn":
            return self._yarn(plain_1R, head_dim)
        return plain_1R

    def _llama3(self, plain: Tensor) -> Tensor:
        turns = self.original_max_position_embeddings * plain / (2 * math.pi)  # in the trained context
        blend = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0.0, 1.0)
        return plain * (blend + (1.0 - blend) / self.factor)

    def _yarn(self, plain: Tensor, head_dim: int) -> Tensor:
        def rotation_of(turns: float) -> float:
            """Number of the rotation (a fraction) that makes so many turns in the trained context."""
            ratio = self.original_max_position_embeddings / (turns * 2 * math.pi)
            return head_dim * math.log(ratio) / (2 * math.log(self.rope_theta))

        low, high = rotation_of(self.beta_fast or 32.0), rotation_of(self.beta_slow or 1.0)
        if self.truncate is not False:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001
        ramp = ((torch.arange(head_dim // 2, device=plain.device).float() - low) / (high - low)).clamp(0.0, 1.0)
        return plain / self.factor * ramp + plain * (1.0 - ramp)


def _yarn_scale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rotary_tables(positions_BT: Tensor, head_dim: int, rope: Rope, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE, half-split layout, each (B, 1, T, E)."""
    frequencies_BR = rope.frequencies(head_dim, positions_BT)
    angles = positions_BT.float()[:, None, :, None] * frequencies_BR[:, None, None, :]
    angles = torch.cat([angles, angles], dim=-1)
    cos, sin = angles.cos(), angles.sin()
    if (scaling := rope.attention_scaling) != 1.0:
        cos, sin = cos * scaling, sin * scaling
    return cos.to(dtype), sin.to(dtype)


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to queries or keys."""
    first, second = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos + torch.cat([-second, first], dim=-1) * sin


def sinusoidal_table(num_positions: int, size: int, interleaved: bool = False) -> Tensor:
    """Fixed position vectors (T, size) of Vaswani et al. 2017, in fp32.

    Sines in the first half and cosines in the second (Marian), or `interleaved`, sines at even and cosines at odd
    places (DistilBERT, the paper).
    """
    # float64, as numpy computes it where such tables are stored in checkpoints
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] / 10_000.0**exponents
    sines, cosines = angles.sin(), angles.cos()[:, : size // 2]
    if not interleaved:
        return torch.cat([sines, cosines], dim=1).float()
    table = torch.empty(num_positions, size, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = sines, cosines
    return table.float()


def alibi_slopes(num_heads: int) -> Tensor:
    """Slope of each head's linear bias (Press et al. 2022), fp32 (H,).

    >>> alibi_slopes(8)[:3]
    tensor([0.5000, 0.2500, 0.1250])
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    # Beyond a power of two, every other slope of twice as many heads, as in the paper's code.
    slopes += [2.0 ** (-4.0 * (2 * head + 1) / power) for head in range(num_heads - power)]
    return torch.tensor(slopes)


def t5_buckets(
    num_queries: int,
    num_keys: int,
    *,
    bidirectional: bool,
    num_buckets: int = 32,
    max_distance: int = 128,
    device: torch.device | str = "cpu",
    first_query: int = 0,
) -> Tensor:
    """Bucket of each relative position (Raffel et al. 2020), int64 (T, S): exact when near, logarithmic when far.

    `first_query` is the position of the first query among the keys (for steps after a cache).
    """
    queries_T1 = torch.arange(first_query, first_query + num_queries, device=device)[:, None]
    distance_TS = torch.arange(num_keys, device=device)[None] - queries_T1
    bucket_TS = torch.zeros_like(distance_TS)
    if bidirectional:
        num_buckets //= 2
        bucket_TS = (distance_TS > 0) * num_buckets
        distance_TS = distance_TS.abs()
    else:
        distance_TS = (-distance_TS).clamp(min=0)
    exact = num_buckets // 2
    log_TS = torch.log(distance_TS.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far_TS = (exact + (log_TS * (num_buckets - exact)).to(torch.int64)).clamp(max=num_buckets - 1)
    return bucket_TS + torch.where(distance_TS < exact, distance_TS, far_TS)
