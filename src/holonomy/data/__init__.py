"""Text, tokens and the plain baselines that every language model is compared with."""
