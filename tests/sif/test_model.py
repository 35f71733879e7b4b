"""Any sequence of changes keeps every object readable, equal to a model, and `check` clean."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sifkit import sif

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # fsync costs nothing there

sizes = st.one_of(st.integers(0, 200), st.sampled_from([4095, 4096, 4097, 70000]))
adds = st.tuples(
    st.just("add"), st.sampled_from([0x4001, 0x4006, 0x4007, 0x400B]), sizes, st.sampled_from([None, 0, 512, 4096])
)
parts = st.tuples(st.just("part"), st.sampled_from([1, 2, 3, 4]), sizes, st.sampled_from(["amd64", "arm64"]))
picks = st.integers(0, 9)
steps = st.one_of(
    adds,
    parts,
    st.tuples(st.just("del"), picks, st.booleans(), st.booleans()),
    st.tuples(st.just("setprim"), picks),
    st.tuples(st.just("name"), picks, st.text("aé-", max_size=9)),
    st.tuples(st.just("compact")),
    st.tuples(st.just("grow"), st.integers(0, 9)),
)


class Model:
    """What the image ought to hold: ID → (type, bytes, part type or 0, name)."""

    def __init__(self, path: str, capacity: int) -> None:
        self.path = path
        self.capacity = capacity
        self.objects: dict[int, tuple[int, bytes, int, str]] = {}
        self.count = 0
        sif.create(path, capacity=capacity)

    def fresh(self, size: int) -> bytes:
        self.count += 1
        return (b"%d." % self.count * (size // 2 + 1))[:size]

    def lowest(self) -> int:
        return next(n for n in range(1, len(self.objects) + 2) if n not in self.objects)

    def step(self, step: tuple) -> None:  # type: ignore[type-arg]
        getattr(self, "do_" + step[0])(*step[1:])

    def do_add(self, kind: int, size: int, alignment: int | None) -> None:
        data = self.fresh(size)
        done = sif.add(self.path, sif.NewObject(kind, data, alignment=alignment))
        self._added(done.ids, (kind, data, 0, ""))

    def do_part(self, part: int, size: int, arch: str) -> None:
        data = self.fresh(size)
        new = sif.partition(data, sif.FsType.RAW, part, arch)
        if part == 2 and any(o[2] == 2 for o in self.objects.values()):
            with pytest.raises(sif.PrimaryExists):
                sif.add(self.path, new)
            return
        self._added(sif.add(self.path, new).ids, (0x4004, data, part, ""))

    def _added(self, ids: tuple[int, ...], record: tuple[int, bytes, int, str]) -> None:
        assert ids == (self.lowest(),)
        while ids[0] > self.capacity:
            self.capacity = self.capacity * 2 or 1
        self.objects[ids[0]] = record

    def _pick(self, number: int) -> int:
        ids = sorted(self.objects)
        return ids[number % len(ids)] if ids else 1

    def do_del(self, pick: int, zero: bool, compact: bool) -> None:
        number = self._pick(pick)
        if number not in self.objects:
            with pytest.raises(sif.ObjectNotFound):
                sif.delete(self.path, number)
            return
        sif.delete(self.path, number, zero=zero, compact=compact)
        del self.objects[number]

    def do_setprim(self, pick: int) -> None:
        number = self._pick(pick)
        old = self.objects.get(number)
        if old is None or old[2] not in (1, 2):
            with pytest.raises((sif.WrongObject, sif.ObjectNotFound)):
                sif.set_primary(self.path, number)
            return
        sif.set_primary(self.path, number)
        for other, (kind, data, part, name) in self.objects.items():
            if part == 2:
                self.objects[other] = (kind, data, 1, name)
        self.objects[number] = (old[0], old[1], 2, old[3])

    def do_name(self, pick: int, name: str) -> None:
        number = self._pick(pick)
        if number in self.objects:
            sif.change(self.path, number, name=name)
            self.objects[number] = (*self.objects[number][:3], name)

    def do_compact(self) -> None:
        before = os.stat(self.path).st_size
        saved = sif.compact(self.path)
        assert os.stat(self.path).st_size == before - saved
        with sif.open(self.path) as image:
            assert image.header.table_offset == 4096
        assert sif.compact(self.path) == 0

    def do_grow(self, more: int) -> None:
        sif.grow(self.path, self.capacity + more)
        self.capacity += more

    def verify(self) -> None:
        with sif.open(self.path) as image:
            found = {
                d.id: (d.data_type, image.read(d), d.partition.part if d.partition else 0, d.name_text)
                for d in image.objects
            }
            assert found == self.objects
            assert (image.header.total, image.header.free) == (self.capacity, self.capacity - len(found))
        assert sif.check(self.path) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 4), st.lists(steps, max_size=14))
def test_any_sequence(capacity: int, sequence: list[tuple]) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        model = Model(str(Path(directory) / "image.sif"), capacity)
        for step in sequence:
            model.step(step)
            model.verify()
