"""Studies of settings: rules' parameters and agents' hyperparameters, searched for with Optuna."""
