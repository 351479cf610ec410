"""Pages that show what a model said and how a run went: one HTML file each, nothing outside it."""
