"""Methods of a life of days: `by_night.py` has what nights share; `seeding.py` and `fine_tuning.py` learn in them, `dreaming.py` tries what it dreams first; `dreams.py`, `imitation.py`, `skill.py`
and `isolated.py` are what these do; `seta.py` and `tuned.py` learn by day."""
from sleepnet.methods.night import dreaming, fine_tuning, seeding, seta, tuned

__all__ = ["dreaming", "fine_tuning", "seeding", "seta", "tuned"]
