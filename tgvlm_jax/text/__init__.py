"""Text as rewards and metrics see it: stems, n-grams, bytes. No models and no tokenizers."""
