"""Boolean attention masks, True where a query may see a key."""

from typing import Any


def padding(xp: Any, attention_mask: Any) -> Any:
    """(B, S) with nonzero = attend -> (B, 1, 1, S)."""
    return (attention_mask != 0)[:, None, None, :]


def causal(xp: Any, steps: Any) -> Any:
    """(T,) positions in time -> (1, 1, T, T): a query sees itself and earlier tokens."""
    return (steps[:, None] >= steps[None, :])[None, None]


def causal_padding(xp: Any, steps: Any, attention_mask: Any) -> Any:
    """(T,) positions in time and (B, T) with nonzero = attend -> (B, 1, T, T)."""
    return xp.logical_and(causal(xp, steps), padding(xp, attention_mask))


def causal_cache(xp: Any, queries: Any, keys: Any, attention_mask: Any) -> Any:
    """(T,) and (S,) positions in time and (B, S) with nonzero = attend -> (B, 1, T, S): causal, over a cache."""
    return xp.logical_and((queries[:, None] >= keys[None, :])[None, None], padding(xp, attention_mask))
