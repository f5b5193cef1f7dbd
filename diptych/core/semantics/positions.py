"""Which position a token has, and which token stands for its sequence."""

from typing import Any


def sequential(xp: Any, steps: Any) -> Any:
    """(T,) counted from 0 -> (1, T): the same positions for every row, padded or not."""
    return steps[None, :]


def end_of_text(xp: Any, input_ids: Any, eos_token_id: int | None) -> Any:
    """(B, T) ids -> (B,): where CLIP reads a text's features.

    Configs written before transformers 4.31 say eos_token_id 2, which is wrong; they mean the largest id, which is the
    end of text in CLIP's own vocabulary. Others mean the first eos_token_id; a row without one gives 0.
    """
    if eos_token_id == 2:
        return xp.argmax(input_ids, axis=-1)
    return xp.argmax(xp.astype(input_ids == eos_token_id, xp.int32), axis=-1)
