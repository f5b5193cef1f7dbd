"""From sound files to texts and classes, as `diptych generate --audio` and `diptych classify --audio` do it."""

from diptych.classification import Classification as Classification
from diptych.sound.classification import classify_recordings as classify_recordings
from diptych.sound.transcription import Transcription as Transcription
from diptych.sound.transcription import transcribe as transcribe

__all__ = ["Classification", "Transcription", "classify_recordings", "transcribe"]
