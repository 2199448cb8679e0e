"""From scores to figures: protocols, intervals, regions, events, epochs, plots."""
