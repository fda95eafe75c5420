"""Methods of a life of days: `by_night.py` has what nights share, `seeding.py` and `fine_tuning.py` learn in them, `dreams.py` and `imitation.py` are what seeding does; `seta.py` and `tuned.py` learn by day."""
from sleepnet.methods.night import fine_tuning, seeding, seta, tuned

__all__ = ["fine_tuning", "seeding", "seta", "tuned"]
