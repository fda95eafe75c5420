"""Learning from rewards: `experience.py` draws, `rewards.py` and `judge.py` say what it is worth, `advantages.py` and `policy.py` what is learnt of it; `exprl.py` is a method, `hints.py` has Mem-π's terms."""
from sleepnet.methods.rl import exprl

__all__ = ["exprl"]
