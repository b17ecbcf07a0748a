"""How the solution set of a trained network moves when its training data is perturbed."""
