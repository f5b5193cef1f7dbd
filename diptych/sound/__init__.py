"""From sound files to texts, as `diptych generate --audio` does it."""

from diptych.sound.transcription import Transcription as Transcription
from diptych.sound.transcription import transcribe as transcribe

__all__ = ["Transcription", "transcribe"]
