"""JAX's persistent compilation cache in a run's folder: a run that goes on compiles nothing twice."""
import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def cached(where: str, workdir: Path) -> Iterator[None]:
    """Within it, what takes JAX's `jax_persistent_cache_min_compile_time_secs` or longer to compile is kept on disk and found there again.

    Args:
      where: `workdir`: in `workdir`/compiled, unless JAX has been told of a folder by other means (JAX_COMPILATION_CACHE_DIR); `off`: as
        JAX has been told; any other: this folder.
      workdir: the run's folder.
    """
    told = jax.config.jax_compilation_cache_dir
    if where == "off" or (where == "workdir" and told):
        yield
        return
    _point_at(str(workdir.absolute() / "compiled") if where == "workdir" else where)
    try:
        yield
    finally:
        _point_at(told)


def _point_at(folder: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # JAX looks at the setting once, at its first compilation
