"""Boxes that may hold an object, found without labels: a file of them, and finders."""

from .reader import ProposalError, Proposals

__all__ = ["ProposalError", "Proposals"]
