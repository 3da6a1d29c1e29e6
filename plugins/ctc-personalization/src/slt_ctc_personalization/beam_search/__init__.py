"""Searches over CTC log-probabilities: prefix beam search by labels, by words and with windows of evidence, and greedy."""
