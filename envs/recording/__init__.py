"""Record episodes of a person, an oracle or a policy in an environment, and play recorded ones again."""
