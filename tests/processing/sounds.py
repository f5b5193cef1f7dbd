"""Recordings that tests synthesise."""

from pathlib import Path

import numpy as np


def tones(*frequencies: float, rate: int = 16_000, seconds: float = 0.1, seed: int = 0) -> np.ndarray:
    """Tones one after the other, with a little noise (samples,)."""
    time = np.arange(int(rate * seconds)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time) * len(frequencies)) * 0.01
    return np.concatenate([0.4 * np.sin(2 * np.pi * one * time) for one in frequencies]) + noise


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **options: str) -> Path:
    """A sound file; its format is that of its ending, if no option says another."""
    import soundfile

    soundfile.write(path, samples, rate, **options)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    """A copy of a file without its end."""
    data = path.read_bytes()
    found = path.with_name(f"cut_{path.name}")
    found.write_bytes(data[: int(len(data) * share)])
    return found
