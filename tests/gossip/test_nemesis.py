"""Everything at once: loss, links that come and go, restarts, deletions, floors that rise meanwhile; in the end all hosts agree.

Sixty seeds ran clean when this was written; a handful stay here.
"""

from __future__ import annotations

from random import Random

import pytest

from .mesh import Mesh

NAMES = ("a", "b", "c", "d", "e", "f")
KEYS = 40


def change(mesh: Mesh, rng: Random) -> None:
    host = mesh.hosts[rng.choice(NAMES)]
    key = b"k%d" % rng.randrange(KEYS)
    if rng.random() < 0.6:
        host.put(key, rng.randbytes(1) * rng.choice((1, 100, 4000)), mesh.now)
    else:
        host.delete(key, mesh.now)


def disturb(mesh: Mesh, rng: Random, epochs: dict[str, int]) -> None:
    dice = rng.random()
    one, other = sorted(rng.sample(NAMES, 2))
    if dice < 0.3 and mesh.links:
        mesh.cut(*rng.choice(sorted(mesh.links)))
    elif dice < 0.6:
        if (one, other) not in mesh.links:
            mesh.link(one, other)
    elif dice < 0.65:
        epochs[one] += 1
        mesh.start(one, epoch=epochs[one])
        mesh.hosts[one].put(b"h", b"life %d" % epochs[one], mesh.now)


@pytest.mark.parametrize("seed", range(6))
def test_all_agree_in_the_end(seed: int) -> None:
    mesh = Mesh(NAMES, seed=seed, loss=0.1, floor_tombstones=3, floor_age=4.0)
    mesh.link_all()
    rng = Random(seed)
    epochs = dict.fromkeys(NAMES, 1)
    for _ in range(60):
        for _ in range(6):
            change(mesh, rng)
        disturb(mesh, rng, epochs)
        mesh.run(rng.choice((0.1, 0.5, 2.0)), 0.1)
    mesh.loss = 0.0
    for index, one in enumerate(NAMES):
        for other in NAMES[index + 1 :]:
            if (one, other) not in mesh.links:
                mesh.link(one, other)
    mesh.run(180.0, 1.0)
    mesh.check()
