"""When things happen: spans, time codes and frame targets, without any model."""
