"""Pretraining followed by its transfers, run by one command."""
