"""The floor of an update: a program that does nothing but its matrix products.

The products are read from the update itself: it is traced, equal computations are counted once (as XLA does), and every
`dot_general` left is repeated on its own in a loop. Products of several critics are done both as one batched product
and one by one, and the faster of the two counts. One number of an operand changes each time, so that XLA does each
product anew; where it copies the operand for that, the copy is in the floor. Branches count by how often they run.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

Product = tuple[tuple[int, ...], tuple[int, ...], Any, str]
"""Shapes of both sides, which axes are contracted and batched, and the operands' number format; results are float32."""


@dataclasses.dataclass
class Products:
    """Products of one update, each with how often it runs."""

    counts: Counter[Any]

    @property
    def flops(self) -> float:
        """Multiplications and additions of one update."""
        return sum(_flops(product) * count for product, count in self.counts.items())


def products_of(function: Callable[..., Any], *arguments: Any, branch_share: float = 1.0) -> Products:
    """The matrix products of a call; `branch_share` is how often the true branch of a `cond` runs."""
    closed = jax.make_jaxpr(function)(*arguments)
    # Without what no result needs, such as gradients by the weights of a network that is only looked through.
    needed, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    counts: Counter[Any] = Counter()  # fractions of a product too
    numbers: dict[Any, int] = {}

    def number(key: Any) -> int:
        return numbers.setdefault(key, len(numbers))

    def walk(
        jaxpr: Any, inputs: list[int], constants: list[int], times: float, known: dict[Any, list[int]]
    ) -> list[int]:
        """Value numbering: the numbers of the outputs, given those of the inputs."""
        at: dict[Any, int] = dict(zip(jaxpr.constvars, constants, strict=True))
        at |= dict(zip(jaxpr.invars, inputs, strict=True))

        def of(atom: Any) -> int:
            return number(("literal", str(atom))) if hasattr(atom, "val") else at[atom]

        for equation in jaxpr.eqns:
            name, given = equation.primitive.name, [of(atom) for atom in equation.invars]
            inner = (
                equation.params.get("jaxpr") or equation.params.get("call_jaxpr") or equation.params.get("fun_jaxpr")
            )
            if name == "scan":
                length, body = equation.params["length"], inner.jaxpr
                fresh = [number(object()) for _ in body.invars]
                walk(body, fresh, [number(object()) for _ in body.constvars], times * length, {})
                found = [number(object()) for _ in equation.outvars]
            elif name == "cond":
                branch = equation.params["branches"][-1]
                walk(branch.jaxpr, given[1:], [number(object()) for _ in branch.consts], times * branch_share, {})
                found = [number(object()) for _ in equation.outvars]
            elif inner is not None and name != "while":
                body = getattr(inner, "jaxpr", inner)
                found = walk(
                    body,
                    given[-len(body.invars) :] if body.invars else [],
                    [number(object()) for _ in body.constvars],
                    times,
                    known,
                )
            else:
                key = (name, str(sorted(equation.params.items(), key=str)), tuple(given))
                if key in known:
                    found = known[key]
                else:
                    found = known[key] = [number(object()) for _ in equation.outvars]
                    if name == "dot_general":
                        left, right = (atom.aval for atom in equation.invars)
                        axes = equation.params["dimension_numbers"]
                        counts[(left.shape, right.shape, axes, left.dtype.name)] += times
            at |= dict(zip(equation.outvars, found, strict=True))
        return [of(atom) for atom in jaxpr.outvars]

    walk(
        needed,
        [number(object()) for _ in needed.invars],
        [number(object()) for _ in closed.consts],
        1.0,
        {},
    )
    return Products(counts)


def floor_rates(products: Products, *, seconds: float = 2.0, repeats: int = 3) -> list[float]:
    """Updates a second of the products alone, in the faster of the two forms; one number a repeat."""
    forms = [_program(_entries(products, apart)) for apart in (False, True)]
    guess = max(8, int(seconds * 1e11 / products.flops))
    rates: list[list[float]] = []
    for form, state in forms:
        jax.block_until_ready(form(state, 2))
        rates.append([])
    for _ in range(repeats):
        for k, (form, state) in enumerate(forms):
            began = time.perf_counter()
            jax.block_until_ready(form(state, guess))
            rates[k].append(guess / (time.perf_counter() - began))
    return max(rates, key=statistics.median)


def _entries(products: Products, apart: bool) -> list[tuple[Product, float]]:
    """Each product once an update (or its share); batched ones as one, or taken apart."""
    entries: list[tuple[Product, float]] = []
    for (left, right, ((lc, rc), (lb, rb)), kind), count in products.counts.items():
        if apart and lb:
            parts = int(np.prod([left[axis] for axis in lb]))
            plain_left = _without(left, lb), tuple(_moved(axis, lb) for axis in lc)
            plain_right = _without(right, rb), tuple(_moved(axis, rb) for axis in rc)
            single = (plain_left[0], plain_right[0], ((plain_left[1], plain_right[1]), ((), ())), kind)
            entries.append((single, count * parts))
        else:
            entries.append(((left, right, ((lc, rc), (lb, rb)), kind), count))
    return entries


def _program(entries: list[tuple[Product, float]]) -> tuple[Any, Any]:
    random = np.random.default_rng(0)

    def array(shape: tuple[int, ...], kind: str) -> jax.Array:
        return jnp.asarray(random.normal(size=shape) * 0.05, kind)

    def product(a: Any, b: Any, dimensions: Any) -> Any:
        return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)

    buffers = []
    for (left, right, dimensions, kind), count in entries:
        a, b = array(left, kind), array(right, kind)
        whole, share = int(count), count - int(count)
        out = jnp.zeros_like(product(a, b, dimensions))
        buffers.append((dimensions, whole, share, (a, b, out)))

    def once(dimensions: Any, held: Any) -> Any:
        a, b, out = held
        # The smaller side depends on the last result, so that no product is moved out of the loop or done once.
        value = (out.reshape(-1)[:1] * jnp.float32(1e-9)).astype(a.dtype)
        if a.size <= b.size:
            a = jax.lax.dynamic_update_slice(a, value.reshape((1,) * a.ndim), (0,) * a.ndim)
        else:
            b = jax.lax.dynamic_update_slice(b, value.reshape((1,) * b.ndim), (0,) * b.ndim)
        return a, b, product(a, b, dimensions)

    def step(i: Any, state: Any) -> Any:
        after = []
        for (dimensions, whole, share, _), held in zip(buffers, state, strict=True):
            if whole:
                held = jax.lax.fori_loop(0, whole, lambda _, h, d=dimensions: once(d, h), held) if whole > 8 else held
                for _ in range(whole if whole <= 8 else 0):
                    held = once(dimensions, held)
            if share:
                due = (i + 1) % round(1 / share) == 0
                held = jax.lax.cond(due, lambda h, d=dimensions: once(d, h), lambda h: h, held)
            after.append(held)
        return after

    program = jax.jit(lambda state, updates: jax.lax.fori_loop(0, updates, step, state))
    return program, [held for *_, held in buffers]


def _flops(product: Product) -> float:
    left, right, ((_, rc), (_, rb)), _ = product
    free = np.prod([size for axis, size in enumerate(right) if axis not in (*rc, *rb)], initial=1.0)
    return 2.0 * float(np.prod(left)) * float(free)


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _moved(axis: int, removed: tuple[int, ...]) -> int:
    return axis - sum(other < axis for other in removed)
