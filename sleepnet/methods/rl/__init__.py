"""Learning from rewards: `experience.py` draws, `rewards.py` and `judge.py` say what it is worth, `advantages.py` and `policy.py` what is learnt of it; `exprl.py`, `self_distill.py`, `foreign.py` and `mem_pi.py` are methods, `method.py` what these share; of the latter `hints.py` has the terms, `hinting.py` what is said and answered, `gates.py` what policies would have got."""
from sleepnet.methods.rl import exprl, foreign, mem_pi, self_distill

__all__ = ["exprl", "foreign", "mem_pi", "self_distill"]
