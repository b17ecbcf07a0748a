"""What to ask of a run, or of a training, where a function studies a problem: told by the common check."""

_SET = "For the set of solutions around its weights build solset.Problem(run.model, loss, x, y)."
_OF_RUN = {
    "Problem": "Pass run.model, its trained module.",
    "training_stability": "Ask run.estimate(change): the length of its change, with a verdict on smoothness.",
    "lipschitz_modulus": "Ask solset.audit(run, validation=(x_test, y_test)), or run.attribute(goal).",
    "modulus_chain": "Ask solset.audit(run, validation=(x_test, y_test)), or run.attribute(goal).",
    "follow_path": "Ask run.retrain(change, scale=s) at several parts s of the change.",
    "follow_retraining": "Ask run.retrain(change), which runs the recipe again.",
    "retrain": "Ask run.retrain(change), which runs the recipe again.",
    "tangent_recursion": "Ask run.estimate(change), which is the tangent of the run.",
    "forget": "Ask run.retrain(solset.Remove(points)), whose weights come from the other points alone.",
    "leave_one_out": "Ask run.attribute(goal) for each point's worth, or run.retrain(solset.Remove([i])).",
    "plan": "Ask run.estimate(change) or run.attribute(goal), which state their cost in trainings.",
    "design_poisoning": "Ask solset.poisoning.poison_training(training, goal, budget) of the recipe.",
    "judge_poisoning": "Ask solset.poisoning.poison_training(training, goal, budget).judge(seeds).",
    "poison_training": "Pass the training of the run, which is run again from several seeds.",
    "adjoint_gradient": "Ask run.attribute(goal), which has the derivative in all features.",
    "stability_margin": "Ask run.attribute(goal), whose features say how far each point moves an output.",
}
OF_RUN = {"*": f"Ask run.estimate(change), run.attribute(goal) or run.retrain(change). {_SET}"} | {
    name: f"{call} {_SET}" for name, call in _OF_RUN.items()
}
OF_TRAINING = {
    "audit": "Ask solset.audit(training.run(), validation=(x_test, y_test)).",
    "compare": "Ask solset.compare(training.run(), changes, goal, predictors).",
    **{
        name: call.replace(" run.", " training.run().")
        .replace("(run.", "(training.run().")
        .replace("(run,", "(training.run(),")
        for name, call in OF_RUN.items()
    },
}
OF_ENSEMBLE = {
    "*": "Ask it for ensemble.estimate(change) or ensemble.attribute(goal), or ask one of its runs."
}
