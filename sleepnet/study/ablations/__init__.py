"""Ablations: a folder of factors, one study each and base, and the pages on what of them has been run."""
from sleepnet.study.ablations.studies import Study, speed, suite
from sleepnet.study.reuse import Catalogue, catalogue, elsewhere, key

__all__ = ["Catalogue", "Study", "catalogue", "elsewhere", "key", "speed", "suite"]
