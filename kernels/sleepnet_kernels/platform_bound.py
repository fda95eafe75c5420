"""Two primitives of what only one platform can run, so that what is being lowered for decides, and not the machine where it is traced.

`bind` is an identity that can be lowered for one platform alone: what a kernel reads goes through it, and elsewhere the refusal has words before the
kernel's own lowering fails without. `alone` calls a kernel that, of several platforms lowered for at once, is lowered for its own: JAX lowers the
branches of `lax.platform_dependent` for all of them, and a kernel can't be.
"""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

_NAMES = {"gpu": "cuda"}  # what lowering calls a platform, where that is not its name; no kernel here is for another GPU than CUDA's


@dataclasses.dataclass(frozen=True)
class Bound:
    """Where something can run.

    Attributes:
      platform: the only one: cpu, gpu or tpu.
      what: what can't run elsewhere, with its shapes; the beginning of the refusal.
      refuses_device: called with a device of that platform; returns why it can't run there, None where it can.
    """

    platform: str
    what: str
    refuses_device: Callable[[Any], str | None] = lambda device: None

    def reason(self, platforms: tuple[str, ...], device: Any = None) -> str:
        """Why it can't run on all of these platforms, as lowering calls them, or on this device of them, if that is known; "" where it can."""
        made_for = _NAMES.get(self.platform, self.platform)
        for platform in platforms:
            if platform != made_for:
                return f"{self.what} on {platform}: it is made for {made_for} alone; None chooses by the platform lowered for"
        refused = None if device is None else self.refuses_device(device)
        return f"{self.what} on {made_for}: {refused}" if refused else ""


def bind(x: jax.Array, where: Bound) -> jax.Array:
    """Returns x.

    Raises:
      ValueError: when it is lowered, which without `jax.jit` is at once, for another platform or device than `where` has. An export knows no device.
    """
    return _bound.bind(x, where=where)


def alone(platform: str, function: Callable[..., Any], *operands: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the arrays that `function`, which is not differentiated, makes of `operands`; see above."""
    return tuple(_alone.bind(*operands, jaxpr=jax.make_jaxpr(function)(*operands), platform=platform))


def _platforms(ctx) -> tuple[str, ...]:
    return tuple(ctx.platforms or ctx.module_context.platforms)


def _lower_bound(ctx, x, *, where):
    module = ctx.module_context
    here = None if module.backend is None or module.lowering_parameters.for_export else module.get_backend(optional=True)
    if reason := where.reason(_platforms(ctx), here and here.devices()[0]):
        raise ValueError(reason)
    return [x]


def _lower_alone(ctx, *operands, jaxpr, platform):
    own = [name for name in _platforms(ctx) if name == _NAMES.get(platform, platform)]
    return mlir.lower_fun(jaxpr_as_fun(jaxpr))(ctx.replace(platforms=own) if own else ctx, *operands)


def _batch_alone(operands, axes, *, jaxpr, platform):
    made = alone(platform, jax.vmap(jaxpr_as_fun(jaxpr), in_axes=axes), *operands)
    return made, (0,) * len(made)


_bound, _alone = Primitive("platform_bound"), Primitive("platform_alone")
_bound_at_once = jax.jit(lambda x, where: _bound.bind(x, where=where), static_argnames="where")
_bound.def_impl(lambda x, *, where: _bound_at_once(x, where=where))
_bound.def_abstract_eval(lambda x, *, where: x)
ad.primitive_jvps[_bound] = lambda primals, tangents, *, where: (_bound.bind(*primals, where=where), *tangents)
batching.defvectorized(_bound)
mlir.register_lowering(_bound, _lower_bound)

_alone.multiple_results = True
_alone.def_impl(lambda *operands, jaxpr, platform: jaxpr_as_fun(jaxpr)(*operands))
_alone.def_abstract_eval(lambda *operands, jaxpr, platform: jaxpr.out_avals)
batching.primitive_batchers[_alone] = _batch_alone
mlir.register_lowering(_alone, _lower_alone)
