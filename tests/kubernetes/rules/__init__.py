"""What must hold of everything that is applied, beyond its schema."""

from tests.kubernetes.rules import configuration, lifetimes, probes, protection, selection
from tests.kubernetes.rules.rule import RULES

__all__ = ["RULES", "configuration", "lifetimes", "probes", "protection", "selection"]
