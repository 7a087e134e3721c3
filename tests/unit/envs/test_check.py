from __future__ import annotations

import pytest

from tests.unit.envs.toy import Toy
from tests.unit.envs.zoo import ZOO
from zprl.envs.check import RULES, EnvRuleError, check_env


def test_good_world_passes_and_every_simulator_is_closed():
    made: list[Toy] = []

    def factory() -> Toy:
        assert all(env.closed for env in made), "two simulators open at once"
        made.append(Toy())
        return made[-1]

    check_env(factory)
    assert made
    assert all(env.closed for env in made)


@pytest.mark.parametrize(
    ("rule", "world"), ZOO, ids=[f"{rule}-{world.__name__}" for rule, world in ZOO]
)
def test_broken_world_is_caught_by_its_rule(rule: str, world: type[Toy]):
    with pytest.raises(EnvRuleError) as caught:
        check_env(world)
    assert caught.value.rule == rule, str(caught.value)
    assert RULES[rule] in str(caught.value)


def test_every_rule_has_a_broken_world():
    assert {rule for rule, _ in ZOO} == set(RULES)
