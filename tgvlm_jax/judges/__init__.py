"""Who says whether an observation suffices for an answer: words, or a language model."""
