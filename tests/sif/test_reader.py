"""Objects read and selected."""

from __future__ import annotations

import os

import pytest

from sifkit import sif


def test_view_is_bounded_and_seekable(image: str) -> None:
    with sif.open(image) as opened, opened.view(opened.objects[0]) as view:
        assert view.read() == b"bootstrap: scratch\n"
        assert view.read(1) == b""
        assert view.seek(-8, os.SEEK_END) == 11
        assert (view.read(3), view.tell()) == (b"scr", 14)
        with pytest.raises(ValueError):
            view.seek(-1)


def test_selection(image: str) -> None:
    with sif.open(image) as opened:
        assert [d.id for d in opened.select(sif.negate(sif.of_type(sif.DataType.PARTITION)))] == [1, 3]
        assert opened.one(sif.of_part_type(sif.PartType.PRIMARY), sif.of_group(1)) == opened.primary
        with pytest.raises(sif.MultipleObjects):
            opened.one(sif.any_of(sif.by_id(1), sif.by_id(3)))
        with pytest.raises(sif.ObjectNotFound):
            opened.one(sif.all_of(sif.by_id(1), sif.by_id(3)))
