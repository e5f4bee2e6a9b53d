"""Random spaces for property-based tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from rheostat.space import Choice, Float, Int, Prior, Space


@st.composite
def floats(draw: st.DrawFn, when: Any = None) -> Float:
    log = draw(st.booleans())
    low = draw(st.floats(1e-6, 10)) if log else draw(st.floats(-100, 100))
    high = low + draw(st.floats(0.1, 1000))
    step = draw(st.none() | st.floats(0.01, 1).map(lambda share: share * (high - low)))
    prior = draw(st.none() | st.floats(0.1, 0.95))
    return Float(low, high, log=log, step=step, prior=prior and Prior((low + high) / 2, prior), when=when)


@st.composite
def ints(draw: st.DrawFn, when: Any = None) -> Int:
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -50, 50))
    high = low + draw(st.integers(1, 500))
    step = draw(st.none() | st.integers(1, high - low))
    return Int(low, high, log=log, step=step, when=when)


@st.composite
def choices(draw: st.DrawFn, when: Any = None) -> Choice:
    values = draw(
        st.lists(
            st.text("abé✓", max_size=3) | st.integers(-3, 3) | st.booleans() | st.none(),
            min_size=1,
            max_size=5,
        )
    )
    unique = list({(type(v), v): v for v in values}.values())
    return Choice(unique, prior=Prior(unique[0], draw(st.floats(0.1, 0.9))), when=when)


@st.composite
def spaces(draw: st.DrawFn, max_size: int = 6) -> Space:
    """Spaces with nested conditions and fixed values."""
    parts: dict[str, Any] = {}
    for index in range(draw(st.integers(1, max_size))):
        parents = [name for name, part in parts.items() if isinstance(part, Choice)]
        when = None
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            when = {parent: draw(st.lists(st.sampled_from(parts[parent].values), min_size=1, max_size=2))}
        parts[f"p{index}"] = draw(st.one_of(floats(when), ints(when), choices(when)))
    if draw(st.booleans()):
        parts["fixed"] = draw(st.integers(0, 3))
    return Space(parts)
