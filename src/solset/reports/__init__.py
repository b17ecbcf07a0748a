"""From a result to a run folder and one page."""
