"""What the commands show while they work."""
import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Step = Callable[[int], None]  # called with how many more are done


@contextlib.contextmanager
def bar(text: str, total: int | None) -> Iterator[Step]:
    """A progress bar on stderr with the time left (None: nobody knows how many), gone when it is done; on a terminal only."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        line = shown.add_task(text, total=total)
        yield lambda more: shown.advance(line, more)
