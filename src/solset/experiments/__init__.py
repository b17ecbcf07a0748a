"""Experiments, each a function from settings to a result, and the folder and page that hold it."""
