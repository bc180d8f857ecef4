"""VQ-BeT: a transformer chooses codes of actions, and corrects what they stand for."""
