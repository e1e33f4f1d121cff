"""The `Tokens` value against loops."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmssl.tokens import Tokens, both_valid, cat, gather


def tokens(b: int = 3, n: int = 5, d: int = 4, *, valid: bool = True, identity: bool = True) -> Tokens:
    torch.manual_seed(0)
    real = torch.tensor([[True] * n, [True] * 2 + [False] * (n - 2), [False] * n])[:b]
    return Tokens(torch.randn(b, n, d), torch.randn(b, n, 4), real if valid else None, torch.randn(b, n, d) if identity else None)


def same(found: Tensor | None, expected: Tensor | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return torch.equal(found, expected)


INDEX = torch.tensor([[4, 0, 0], [1, 3, 2], [2, 1, 4]])


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 4), (3, 5, 2, 2)])
def test_gather(shape: tuple[int, ...]) -> None:
    source = torch.randn(shape)
    expected = torch.stack([torch.stack([source[i, j] for j in row]) for i, row in enumerate(INDEX.tolist())])
    assert torch.equal(gather(source, INDEX), expected)
    assert gather(None, INDEX) is None


def test_both_valid() -> None:
    a, b = torch.tensor([[True, True, False, False]]), torch.tensor([[True, False, True, False]])
    assert both_valid(a, b).tolist() == [[True, False, False, False]]
    assert both_valid(a, None) is a
    assert both_valid(None, b) is b
    assert both_valid(None, None) is None


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("identity", [True, False])
def test_take(valid: bool, identity: bool) -> None:
    whole = tokens(valid=valid, identity=identity)
    taken = whole.take(INDEX)
    assert torch.equal(taken.values, gather(whole.values, INDEX))
    assert torch.equal(taken.coords, gather(whole.coords, INDEX))
    assert same(taken.valid, gather(whole.valid, INDEX))
    assert same(taken.identity, gather(whole.identity, INDEX))


@pytest.mark.parametrize("valid", [True, False])
def test_take_marks_entries_that_do_not_count(valid: bool) -> None:
    whole = tokens(valid=valid)
    real = torch.tensor([[True, True, False], [True, True, True], [False, True, True]])
    expected = [[bool(real[i, j]) and bool(whole.valid_or_ones()[i, INDEX[i, j]]) for j in range(3)] for i in range(3)]
    assert whole.take(INDEX, real).valid_or_ones().tolist() == expected


@pytest.mark.parametrize("count", [0, 1, 5])
def test_tail(count: int) -> None:
    whole = tokens()
    tail = whole.tail(count)
    for name in ("values", "coords", "valid", "identity"):
        assert torch.equal(getattr(tail, name), getattr(whole, name)[:, 5 - count :]), name
    assert replace(whole, expert="a").tail(count).expert == "a"


def test_with_values_spends_the_identity() -> None:
    whole = tokens()
    other = whole.with_values(torch.ones(3, 5, 7))
    assert torch.equal(other.values, torch.ones(3, 5, 7))
    assert other.coords is whole.coords
    assert other.valid is whole.valid
    assert other.identity is None


def test_mean_of_the_valid_tokens() -> None:
    whole = tokens()
    expected = [whole.values[0].mean(0), whole.values[1, :2].mean(0), torch.zeros(4)]
    torch.testing.assert_close(whole.mean(), torch.stack(expected))
    torch.testing.assert_close(tokens(valid=False).mean(), tokens(valid=False).values.mean(1))


def test_std_is_that_of_the_valid_tokens() -> None:
    whole = tokens()
    expected = [whole.values[0].std(0, correction=0), whole.values[1, :2].std(0, correction=0), torch.full((4,), 1e-6)]
    torch.testing.assert_close(whole.std(), torch.stack(expected))
    torch.testing.assert_close(tokens(valid=False).std(), tokens(valid=False).values.std(1, correction=0))


def test_std_has_a_gradient_where_nothing_varies() -> None:
    values = torch.ones(1, 3, 4, requires_grad=True)
    Tokens(values, torch.zeros(1, 3, 4)).std().sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_max_is_that_of_the_valid_tokens() -> None:
    whole = tokens()
    whole = replace(whole, values=whole.values - 5)  # all negative, so that a padding of zeros would be the largest
    expected = [whole.values[0].amax(0), whole.values[1, :2].amax(0), torch.zeros(4)]
    assert torch.equal(whole.max(), torch.stack(expected))
    assert torch.equal(tokens(valid=False).max(), tokens(valid=False).values.amax(1))


def test_valid_or_ones() -> None:
    assert torch.equal(tokens().valid_or_ones(), tokens().valid)
    assert tokens(valid=False).valid_or_ones().tolist() == [[True] * 5] * 3


@pytest.mark.parametrize("valid", [(True, True), (True, False), (False, True), (False, False)])
def test_cat(valid: tuple[bool, bool]) -> None:
    parts = [tokens(n=5, valid=valid[0], identity=False), tokens(n=3, valid=valid[1], identity=False)]
    whole = cat(parts)
    assert torch.equal(whole.values, torch.cat([part.values for part in parts], 1))
    assert torch.equal(whole.coords, torch.cat([part.coords for part in parts], 1))
    assert (whole.valid is None) == (valid == (False, False))
    assert torch.equal(whole.valid_or_ones(), torch.cat([part.valid_or_ones() for part in parts], 1))


def test_cat_refuses_unspent_identities() -> None:
    with pytest.raises(AssertionError):
        cat([tokens(), tokens(identity=False)])
