"""The one error a user is meant to read: a line that names the key at fault and the fix."""
import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the caller asked for can't be done. Command lines print its one line and exit with status 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the closest of `known`, else a list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """What the first cause of an error says, short."""
    while error.__cause__:
        error = error.__cause__
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
