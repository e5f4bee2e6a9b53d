"""Adam and AdamW are PyTorch's own, bit for bit, whatever happens on the way."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rheostat.train.adam import Adam, AdamW

PAIRS = [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]


def twins(dtype: torch.dtype = torch.float32) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((5, 7), (7,), (3, 5), ())]
    ours, theirs = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    return ours, theirs


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def reloaded(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


@given(
    pair=st.sampled_from(PAIRS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    lr=st.floats(1e-5, 1.0),
    weight_decay=st.sampled_from([0.0, 0.1]),
    events=st.lists(st.sampled_from(["step", "step", "step", "missing", "reload", "rate", "group"]), max_size=15),
)
def test_every_step_is_pytorchs(
    pair: Any, dtype: torch.dtype, lr: float, weight_decay: float, events: list[str]
) -> None:
    (mine, torchs), (ours, theirs) = pair, twins(dtype)
    spare = [nn.Parameter(torch.ones(2, dtype=dtype)) for _ in range(2)]
    left = mine(ours, lr, weight_decay=weight_decay, fused=True)
    right = torchs(theirs, lr, weight_decay=weight_decay, fused=True)
    generator = torch.Generator().manual_seed(1)
    for event in events:
        if event == "reload":
            left.load_state_dict(reloaded(left))
            right.load_state_dict(reloaded(right))
        elif event == "rate":
            left.param_groups[0]["lr"] = right.param_groups[0]["lr"] = lr / 3
        elif event == "group" and len(left.param_groups) == 1:
            left.add_param_group({"params": [spare[0]], "lr": lr / 2})
            right.add_param_group({"params": [spare[1]], "lr": lr / 2})
        for ours_too, theirs_too in zip([*ours, spare[0]], [*theirs, spare[1]], strict=True):
            ours_too.grad = torch.randn(ours_too.shape, generator=generator, dtype=dtype)
            theirs_too.grad = ours_too.grad.clone()
        if event == "missing":
            ours[1].grad = theirs[1].grad = None
        left.step()
        right.step()
        assert same(ours, theirs)
        assert same(left.state_dict(), right.state_dict())


@pytest.mark.parametrize(("mine", "torchs"), PAIRS)
def test_hooks_and_closures_are_honoured(mine: Any, torchs: Any) -> None:
    ours, _ = twins()
    optimizer = mine(ours, 0.1, fused=True)
    seen = []
    for p in ours:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.step()
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    optimizer.step()
    assert seen == ["post"]
    assert optimizer.step(lambda: 3.0) == 3.0
    assert {float(state["step"]) for state in optimizer.state.values()} == {4.0}


def test_what_is_unusual_goes_the_usual_way() -> None:
    ours, theirs = twins()
    ours[1], theirs[1] = (nn.Parameter(p.detach().double()) for p in (ours[1], theirs[1]))
    for left, right in ((Adam(ours, 0.1), torch.optim.Adam(theirs, 0.1)),):  # not fused, and two dtypes
        for _ in range(3):
            for p, q in zip(ours, theirs, strict=True):
                p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
            left.step()
            right.step()
        assert same(ours, theirs) and left._lists is None
