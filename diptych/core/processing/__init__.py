"""Preprocessing: from images to a model's inputs, in numpy, as a checkpoint's preprocessor_config.json says."""
