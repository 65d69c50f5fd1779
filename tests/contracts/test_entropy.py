"""The contract of `Entropy`: numbers in [0, 1) and identifiers that do not repeat."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.agent.world import FakeEntropy
from toolkit.adapters.entropy import SystemEntropy
from toolkit.ports import Entropy

from .worlds import SimWorld


def _simulated() -> Entropy:
    world = SimWorld()
    from simulator.adapters.host import TapeEntropy

    return TapeEntropy(world.process)


#: makes what one node has
ADAPTERS: dict[str, Callable[[], Entropy]] = {
    "system": SystemEntropy,
    "simulated": _simulated,
    "fake": FakeEntropy,
}


@pytest.fixture(params=ADAPTERS.values(), ids=list(ADAPTERS))
def entropy(request: pytest.FixtureRequest) -> Entropy:
    made: Entropy = request.param()
    return made


def test_numbers_are_in_range_and_spread(entropy: Entropy) -> None:
    numbers = [entropy.random() for _ in range(1000)]
    assert all(0.0 <= number < 1.0 for number in numbers)
    # Each tenth is hit; that it isn't has a chance of 10 * 0.9 ** 1000.
    assert {int(number * 10) for number in numbers} == set(range(10))


def test_tokens_are_letters_and_digits(entropy: Entropy) -> None:
    token = entropy.token()
    assert token.isascii()
    assert token.isalnum()


def test_tokens_do_not_repeat(entropy: Entropy) -> None:
    assert len({entropy.token() for _ in range(1000)}) == 1000


def test_tokens_are_long_enough_for_64_bits(entropy: Entropy) -> None:
    # 16 hexadecimal digits, or 11 of a richer alphabet
    tokens = [entropy.token() for _ in range(100)]
    hexadecimal = all(set(token) <= set("0123456789abcdef") for token in tokens)
    assert min(len(token) for token in tokens) >= (16 if hexadecimal else 11)


def test_simulated_entropy_comes_again_with_the_seed_and_differs_between_nodes() -> None:
    def drawn(seed: int, node: str) -> tuple[float, str]:
        world = SimWorld(seed)
        from simulator.adapters.host import TapeEntropy

        process = world.process if node == "node0" else world.other_node.start_process("agent")
        entropy = TapeEntropy(process)
        return entropy.random(), entropy.token()

    assert drawn(1, "node0") == drawn(1, "node0")
    assert len({drawn(1, "node0"), drawn(2, "node0"), drawn(1, "node1")}) == 3
