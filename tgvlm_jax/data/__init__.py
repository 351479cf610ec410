"""From video files to batches: decoding, frame shards, and the sets that are read from them."""
