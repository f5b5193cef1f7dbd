"""Speed of transcription with wav2vec2-base and the decoder of bart-base: 32 tokens about 5 s of sound at 16 kHz,
greedy and with 4 beams. diptych in torch and in JAX against transformers 5 with its dynamic and its static cache; the
last Flax release has no such encoder. Everything is measured as in bench_generation.py."""

import bench_generation
import checkpoints
import numpy as np

RATE, SECONDS = 16_000, 5


class SpeechCase(bench_generation.Case):
    """A model of recordings; `length` counts samples."""

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """A batch of recordings without padding, as a feature extractor of group-norm models returns it."""
        shape = (batch, self.length)
        return {"input_values": np.random.default_rng(batch).standard_normal(shape, np.float32)}


CASES: dict[str, bench_generation.Case] = {
    "wav2vec2-bart": SpeechCase(
        "SpeechEncoderDecoderModel",
        checkpoints.wav2vec2_bart,
        {"pad_token_id": 1, "decoder_start_token_id": 2},
        RATE * SECONDS,
        "decoder.model.decoder.",
        "decoder.model.decoder.embed_tokens.weight",
    ),
}


if __name__ == "__main__":
    here = [name for name, (environment, _) in bench_generation.CONTESTANTS.items() if environment == "here"]
    bench_generation.main(__doc__, CASES, models=list(CASES), batches=[1, 8], contestants=here)
