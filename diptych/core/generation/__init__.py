"""Text generation, as far as it is the same in both backends: options, requests, and the steps of decoding."""
