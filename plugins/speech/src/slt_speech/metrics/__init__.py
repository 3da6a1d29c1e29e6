"""Measurements: error rates on words, characters and phones, keyword F1, mel-cepstral distortion."""
