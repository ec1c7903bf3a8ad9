"""Batch scoring: lists for every user, and the comparison of models on the hold-out."""
