"""Text generation, as far as both backends do it alike: options, what a call asks for, and the steps of decoding."""
