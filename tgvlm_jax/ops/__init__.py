"""Array operations that the models share: attention, rotary positions, cross-entropy."""
