"""Files: atomic writes, sealed records, checkpoints."""
