"""Which source a step reads: the right shares, the same in every process, and exactly the same after a resume."""

from collections import Counter

import numpy as np
import pytest

from mmssl.data.mix import Learned, Mixing, Mixture, Temperature, Weights

SIZES = {"a": 100, "b": 400, "c": 1600}
WEIGHTS = {"a": 1.0, "b": 1.0, "c": 2.0}
MIXINGS: list[Mixing] = [Weights(), Temperature(temperature=2.0), Learned()]


def mixture(mixing: Mixing, seed: int = 0) -> Mixture:
    return Mixture(SIZES, WEIGHTS, mixing, seed)


def walk(mix: Mixture, steps: int) -> list[str]:
    """Choose and learn; the loss of source c stays high."""
    names = []
    for _ in range(steps):
        name = mix.choose()
        names.append(name)
        mix.learn(name, 10.0 if name == "c" and mix.steps[name] else 1.0)
    return names


def test_probabilities_are_those_of_the_formulas() -> None:
    assert mixture(Weights()).probabilities() == {"a": 0.25, "b": 0.25, "c": 0.5}
    roots = np.array([10.0, 20.0, 2 * 40.0])
    assert list(mixture(Temperature(temperature=2.0)).probabilities().values()) == pytest.approx(roots / roots.sum())
    assert list(mixture(Temperature(temperature=1.0)).probabilities().values()) == pytest.approx(
        [100 / 3700, 400 / 3700, 3200 / 3700]
    )


@pytest.mark.parametrize("mixing", MIXINGS[:2], ids=lambda m: type(m).__name__)
def test_sources_are_read_as_often_as_their_probability_says(mixing: Mixing) -> None:
    mix = mixture(mixing)
    expected = mix.probabilities()
    found = Counter(walk(mix, 600))
    for name, share in expected.items():
        assert found[name] / 600 == pytest.approx(share, abs=4 * (share * (1 - share) / 600) ** 0.5)


@pytest.mark.parametrize("mixing", MIXINGS, ids=lambda m: type(m).__name__)
def test_every_process_and_a_resumed_run_choose_alike(mixing: Mixing) -> None:
    through, other = mixture(mixing), mixture(mixing)
    assert walk(through, 60) == walk(other, 60)
    resumed = mixture(mixing)
    resumed.restore(other.state())
    assert walk(resumed, 60) == walk(through, 60)
    assert resumed.state() == through.state()
    assert walk(mixture(mixing, seed=1), 60) != walk(mixture(mixing), 60)


def test_learned_ratios_prefer_what_stays_hard_and_forget_nothing() -> None:
    mix = mixture(Learned())
    walk(mix, 400)
    shares = mix.probabilities()
    assert shares["c"] > shares["a"]
    epsilon = (np.log(3) / (3 * 401)) ** 0.5
    assert min(shares.values()) >= epsilon
    assert sum(shares.values()) == pytest.approx(1)


def test_the_state_of_other_sources_is_refused() -> None:
    other = Mixture({"x": 1}, {"x": 1.0}, Weights(), 0)
    with pytest.raises(ValueError, match=r"the checkpoint mixes the sources \['x'\], the recipe \['a', 'b', 'c'\]"):
        mixture(Weights()).restore(other.state())
