"""What a run costs on chips that are not there: compiled for them, counted, weighed."""
