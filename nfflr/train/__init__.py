"""Training: configuration, the ignite core, evaluation."""
