"""Five minutes of random faults over five hosts, and the mesh is whole again; `make sweep SEEDS=200` tries more of them."""

from __future__ import annotations

import os

import pytest

from tests.sim.nemesis import Nemesis

SEEDS = int(os.environ.get("SEEDS") or 6)
FIRST_SEED = int(os.environ.get("FIRST_SEED") or 0)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_after_five_minutes_of_faults_the_mesh_is_whole(seed: int) -> None:
    nemesis = Nemesis(seed)
    try:
        nemesis.rage(300.0)
        nemesis.settle()
    except AssertionError:
        print("\n".join(nemesis.log))
        raise


def test_a_failed_seed_can_be_run_again() -> None:
    def digest() -> str:
        nemesis = Nemesis(4)
        nemesis.rage(40.0)
        return nemesis.mesh.net.trace.digest()

    assert digest() == digest()
