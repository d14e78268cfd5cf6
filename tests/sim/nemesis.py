"""A nemesis: a seeded run of random faults and changes over a whole mesh, and what must hold when it has ended.

Every second or so one thing happens: a host is killed, stopped, started, restored from a backup, suspended, or loses its power, a
link is cut one way or both, a group is cut off, all is healed, the network gets worse or better, a container comes, goes or moves;
frames go to and fro all the time. Then everything is healed and started, and the mesh is given time: the same records everywhere,
every container known under its host and nothing else, every container answers every other, a broadcast comes once.
"""

from __future__ import annotations

import random

from meshd.testing.host import SimContainer, SimHost
from meshd.testing.network import LinkConditions
from tests.sim.meshes import BROADCAST, GOOD, Mesh

__all__ = ["SETTLE_S", "Nemesis"]

SETTLE_S = 30.0  # after the last fault has ended
MAX_BOXES = 12
WEATHER = (GOOD, GOOD, LinkConditions(loss=0.05, jitter=0.008, duplicate=0.1), LinkConditions(delay=0.05, loss=0.2))


class Nemesis:
    def __init__(self, seed: int, hosts: int = 5) -> None:
        self.mesh = Mesh(seed=seed, hosts=hosts)
        self.rng = random.Random(f"nemesis {seed}")
        self.log: list[str] = []
        self._made = 0

    def rage(self, seconds: float) -> None:
        mesh, rng = self.mesh, self.rng
        mesh.start()
        acts = [self.kill, self.lose_power, self.stop, self.restart, self.cut, self.cut_one_way, self.split]
        acts += [self.heal, self.weather, self.attach, self.detach, self.move, *[self.start_one] * 3]
        acts += [self.restore, self.stand_still]
        end = mesh.clock_now + seconds
        while mesh.clock_now < end:
            rng.choice(acts)()
            pause = rng.choice([0.0, 0.05, 0.5, 2.0, 8.0]) * rng.random()
            for _ in range(3):
                self.talk()
                mesh.run(pause / 3)

    def settle(self) -> None:
        """All faults end; raises AssertionError if the mesh does not become whole."""
        mesh = self.mesh
        self.heal()
        mesh.net.topology.default = GOOD
        for host in mesh.hosts:
            if not host.running:
                host.start()
        mesh.wait(lambda: mesh.meshed() and mesh.owners_right(), SETTLE_S, every=0.1)
        mesh.run(2.0)
        mesh.assert_unicast()
        mesh.assert_floods()
        mesh.run(20.0)
        assert mesh.meshed(), f"seed {mesh.seed}: not for long\n{mesh.describe()}"
        assert mesh.owners_right(), f"seed {mesh.seed}: not for long\n{mesh.describe()}"
        mesh.assert_sane()

    # what can happen

    def _note(self, text: str) -> None:
        self.log.append(f"{self.mesh.clock_now:.3f} {text}")

    def _victim(self) -> SimHost | None:
        """Whose counters end with it, so that they are looked at now."""
        self.mesh.assert_sane()
        return self._one(True)

    def _one(self, running: bool) -> SimHost | None:
        found = [host for host in self.mesh.hosts if host.running is running]
        return self.rng.choice(found) if found else None

    def _two(self) -> tuple[str, str]:
        one, other = self.rng.sample(self.mesh.hosts, 2)
        return one.name, other.name

    def _box(self) -> SimContainer | None:
        found = [box for host in self.mesh.hosts for box in host.containers]
        return self.rng.choice(found) if found else None

    def talk(self) -> None:
        one, other = self._box(), self._box()
        if one is not None and other is not None and one is not other:
            one.send(BROADCAST if self.rng.random() < 0.2 else other.mac, self.mesh.payload())

    def kill(self) -> None:
        if (host := self._victim()) is not None:
            self._note(f"kill {host.name}")
            host.kill()

    def lose_power(self) -> None:
        if (host := self._victim()) is not None:
            self._note(f"power of {host.name}")
            topology = self.mesh.net.topology
            topology.isolate(host.name, [other.name for other in self.mesh.hosts])
            host.kill()

    def stop(self) -> None:
        if (host := self._victim()) is not None:
            self._note(f"stop {host.name}")
            host.stop()
            self.mesh.run(0.0)  # the process ends before anything else happens

    def restart(self) -> None:
        if (host := self._victim()) is not None:
            self._note(f"restart {host.name}")
            host.kill()
            host.start()

    def start_one(self) -> None:
        if (host := self._one(False)) is not None:
            self._note(f"start {host.name}")
            for other in self.mesh.hosts:
                self.mesh.net.topology.mend(host.name, other.name)
            host.start()

    def restore(self) -> None:
        """From a backup, of some lives ago."""
        if (host := self._victim()) is not None:
            host.kill()
            host.boot = max(0, host.boot - self.rng.randint(1, 3))
            self._note(f"restore {host.name} to boot {host.boot}")
            host.start()

    def stand_still(self) -> None:
        """The process is stopped, or the machine suspended; nothing else happens meanwhile."""
        if (host := self._one(True)) is not None:
            seconds = self.rng.choice([0.7, 5.0, 40.0, 200.0])
            self._note(f"{host.name} stands still for {seconds} s")
            host.pause()
            self.mesh.run(seconds)
            host.resume()

    def cut(self) -> None:
        pair = self._two()
        self._note(f"cut {pair}")
        self.mesh.net.topology.cut_pair(*pair)

    def cut_one_way(self) -> None:
        pair = self._two()
        self._note(f"cut one way {pair}")
        self.mesh.net.topology.cut(*pair)

    def split(self) -> None:
        names = [host.name for host in self.mesh.hosts]
        self.rng.shuffle(names)
        at = self.rng.randrange(1, len(names))
        self._note(f"split {names[:at]} {names[at:]}")
        self.mesh.net.topology.partition(names[:at], names[at:])

    def heal(self) -> None:
        self._note("heal")
        self.mesh.net.topology.heal()

    def weather(self) -> None:
        self._note("weather")
        self.mesh.net.topology.default = self.rng.choice(WEATHER)

    def attach(self) -> None:
        host = self.rng.choice(self.mesh.hosts)
        if len(self.mesh.containers(self.mesh.hosts)) < MAX_BOXES:
            self._made += 1
            self._note(f"attach {self._made} to {host.name}")
            host.attach(f"made{self._made}", addresses=(f"10.2.0.{self._made % 250 + 1}/24",))

    def detach(self) -> None:
        box = self._box()
        if box is not None and box.host is not None:
            self._note(f"detach {box.name}")
            box.host.detach(box)

    def move(self) -> None:
        box, to = self._box(), self.rng.choice(self.mesh.hosts)
        if box is not None and box.host is not None and box.host is not to and to.running:
            self._note(f"move {box.name} from {box.host.name} to {to.name}")
            box.host.move(box, to)
