"""The catalog against a plain dict of paths, and what it does with what is odd, damaged or large."""

import os
import random
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import md5

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfs.model.blocks import BLOCK, PAGE, pages
from dsfs.model.errors import NotFoundError, OriginTemporaryError
from dsfs.model.keys import KeyPath, key_path
from dsfs.model.objects import ObjectRef, identity_of
from dsfs.model.packing import SMALL_MAX
from dsfs.storage import catalog, catalog_build, catalog_format
from dsfs.storage.catalog import Catalog, CatalogFileError, Entry
from dsfs.storage.catalog_build import build_catalog

ORIGIN = "s3://bucket"
PREFIX = "lake/v1/"
MIB = 1024 * 1024


def obj(path, size=1, etag="e", modified_s=1):
    return ObjectRef(PREFIX + path, size, etag, modified_s)


@pytest.fixture
def built(tmp_path):
    """Builds a catalog of objects and opens it; all are closed at the end."""
    opened: list[Catalog] = []

    def build(objects, **options):
        path = tmp_path / f"catalog-{len(opened)}.mdb"
        ordered = sorted(objects, key=lambda found: found.key)
        summary = build_catalog(iter(ordered), **{"prefix": PREFIX, "origin_id": ORIGIN, "path": path, **options})
        opened.append(Catalog(path))
        assert opened[-1].summary == summary
        assert opened[-1].generation == summary.generation
        return opened[-1]

    yield build
    for found in opened:
        found.close()


def walk(found, index=0, folder=""):
    """Every entry but the root, by path, as readdir gives them."""
    for entry in found.children(index):
        path = folder + os.fsdecode(entry.name)
        yield path, entry
        if entry.is_dir:
            yield from walk(found, entry.index, f"{path}/")


def files(found):
    return [entry for _, entry in walk(found) if not entry.is_dir]


class Model:
    """What a version looks like, by the rules in plain words."""

    def __init__(self, objects):
        self.directories = {"": 0}
        usable = {}
        for found in objects:
            relative = found.key.removeprefix(PREFIX)
            path = key_path(relative, found.size) if relative else None
            if isinstance(path, KeyPath):
                usable[relative] = found
                for depth in range(len(path.directories) + 1):
                    folder = b"/".join(path.directories[:depth]).decode()
                    self.directories.setdefault(folder, 0)
        self.files = {key: o for key, o in usable.items() if not key.endswith("/") and key not in self.directories}
        for key, found in usable.items():
            if key in self.files or key.endswith("/"):
                for folder in self.directories:
                    if not folder or key.startswith(folder + "/"):
                        self.directories[folder] = max(self.directories[folder], found.modified_s)
        shown = {*self.files.values(), *(o for key, o in usable.items() if key.endswith("/"))}
        self.left_out = {o.key for o in objects if o not in shown and o.key != PREFIX}


NAMES = ["a", "b", "a-", "a.", "a0", "é", "..", ".", "", "n\n", "\ud800", "\0", "x" * 255, "x" * 256]
LIKELY_NAMES = ["a", "b", "a-", "a.", "é"]
keys = st.lists(st.sampled_from(NAMES) | st.sampled_from(LIKELY_NAMES), min_size=1, max_size=4).map("/".join)
etags = st.sampled_from([None, "d41d8cd98f00b204e9800998ecf8427e", "D41D8CD98F00B204E9800998ECF8427E", "7-2", "", "é"])
object_sets = st.dictionaries(
    keys, st.tuples(st.sampled_from([0, 1, 5000, SMALL_MAX, SMALL_MAX + 1]), etags, st.integers(0, 2**33)), max_size=25
).map(lambda drawn: [ObjectRef(PREFIX + key, *rest) for key, rest in drawn.items()])


@settings(max_examples=120)
@given(object_sets)
def test_catalog_is_like_a_plain_tree(tmp_path_factory, objects):
    path = tmp_path_factory.getbasetemp() / "model.mdb"
    objects.sort(key=lambda found: found.key)
    summary = build_catalog(iter(objects), prefix=PREFIX, origin_id=ORIGIN, path=path)
    model = Model(objects)
    with closing(Catalog(path)) as found:
        shown = dict(walk(found))
        assert {p for p, entry in shown.items() if entry.is_dir} == model.directories.keys() - {""}
        assert {p: found.object_of(entry) for p, entry in shown.items() if not entry.is_dir} == model.files
        for folder, mtime_s in model.directories.items():
            assert found.resolve(folder).mtime_s == mtime_s
            names = [entry.name for entry in found.children(found.resolve(folder).index)]
            assert names == sorted(names)
        for p, entry in shown.items():
            assert found.resolve(p) == entry == found.entry(entry.index) == found.child(entry.parent, entry.name)
        assert summary.files == len(model.files)
        assert summary.directories == len(model.directories) - 1
        assert summary.bytes == sum(o.size for o in model.files.values())
        assert summary.made_s == model.directories[""]
        assert summary.left_out == len(model.left_out)
        assert {key for key, _ in summary.left_out_examples} == model.left_out
        assert found.summary == summary
        check_segments(found, model)


def check_segments(found, model):
    """Every file with content lies in one segment, and the segments are what their members make them."""
    large = [o for o in model.files.values() if o.size > SMALL_MAX]
    packed = []
    for number in range(found.summary.packs):
        pack = found.pack(number)
        members = found.members(number, 0, pack.members + 5)
        assert len(members) == pack.members
        assert pack.identity == identity_of(b"".join(member.obj.fingerprint(ORIGIN) for member in members))
        assert pack.size == members[-1].offset + pages(members[-1].obj.size)
        assert found.member_sizes(number) == [member.obj.size for member in members]
        for place, member in enumerate(members):
            entry = found.entry(member.index)
            assert (entry.pack, entry.member, entry.offset) == (number, place, member.offset)
            assert member.offset % PAGE == 0
            assert found.members(number, place, 1) == [member]
        assert found.members(number, pack.members, 1) == []
        packed += [member.obj for member in members]
    assert packed == [o for _, o in sorted(model.files.items()) if 0 < o.size <= SMALL_MAX]
    assert sorted(found.segments()) == sorted(
        [
            *((p.identity, p.size, p.members) for p in map(found.pack, range(found.summary.packs))),
            *((identity_of(o.fingerprint(ORIGIN)), o.size, -(-o.size // BLOCK)) for o in large),
        ]
    )
    assert found.summary.large_objects == len(large)
    unpacked = [entry for entry in files(found) if not 0 < entry.size <= SMALL_MAX]
    assert all((entry.pack, entry.member, entry.offset) == (-1, 0, 0) for entry in unpacked)


def test_directory_wins_over_the_file_of_its_name_though_keys_lie_between(built):
    found = built([obj("x", 5), obj("x-1"), obj("x.txt"), obj("x/y"), obj("x0")])
    assert [entry.name for entry in found.children(0)] == [b"x", b"x-1", b"x.txt", b"x0"]
    assert found.resolve("x").is_dir
    assert found.summary.left_out_examples == [(PREFIX + "x", "is also a directory of other keys")]
    assert found.summary.bytes == 4
    without = built([obj("x-1"), obj("x.txt"), obj("x/y"), obj("x0")])
    assert found.generation == without.generation
    assert list(found.segments()) == list(without.segments())


def test_marker_makes_an_empty_directory_with_its_time(built):
    found = built(
        [obj("", 0), obj("empty/", 0, modified_s=7), obj("full/", 0, modified_s=9), obj("full/a", modified_s=3)]
    )
    assert (found.resolve("empty").is_dir, found.resolve("empty").mtime_s) == (True, 7)
    assert list(found.children(found.resolve("empty").index)) == []
    assert found.resolve("full").mtime_s == 9
    assert (found.summary.files, found.summary.directories, found.summary.left_out) == (1, 2, 0)


def test_version_without_objects_is_an_empty_root(built):
    found = built([])
    assert found.resolve("") == found.entry(0) == Entry(0, 0, b"", True, 0, 0, None)
    assert list(found.children(0)) == list(found.segments()) == []


def test_prefix_may_be_the_whole_bucket(built):
    found = built([ObjectRef("a/b", 1, None, 1)], prefix="")
    assert found.object_of(found.resolve("a/b")).key == "a/b"


def test_what_is_not_there_is_not_found(built):
    found = built([obj("a/b")])
    for path in ("b", "a/c", "a/b/c", "a/", "/a", "a//b", "../a", "\udcff", "x" * 1000):
        with pytest.raises(NotFoundError):
            found.resolve(path)
    for call in (found.entry, found.pack, found.member_sizes):
        with pytest.raises(NotFoundError):
            call(99)
    assert found.child(0, b"x" * 1000) is None
    assert found.child(99, b"a") is None
    assert found.child(found.resolve("a/b").index, b"a") is None
    assert list(found.children(found.resolve("a/b").index)) == []


def test_keys_of_the_greatest_length_work(built):
    path = "/".join(["d" * 250] * 4)[: 1024 - len(PREFIX)]
    found = built([obj(path + "a"), obj(path + "b"[:0])])
    assert found.object_of(found.resolve(path)).key == PREFIX + path
    assert found.object_of(found.resolve(path + "a")).key == PREFIX + path + "a"


@pytest.mark.parametrize("count", [catalog.BATCH - 1, catalog.BATCH, catalog.BATCH + 1, 2 * catalog.BATCH])
def test_children_go_on_behind_any_child(count, built):
    found = built([*(obj(f"d/{n:05d}") for n in range(count)), obj("d/00007-x/y"), obj("e")])
    parent = found.resolve("d").index
    children = list(found.children(parent))
    assert len(children) == count + 1
    for place in random.Random(count).sample(range(count + 1), 20):
        assert list(found.children(parent, after=children[place].index)) == children[place + 1 :]
    assert list(found.children(parent, after=children[-1].index)) == []


def test_large_directory_streams(built):
    found = built(obj(f"{n:06d}") for n in range(20_000))
    assert sum(1 for _ in found.children(0)) == 20_000


def test_generation_is_of_what_is_seen_and_where_it_comes_from(built):
    base = [obj("a", 5), obj("b/c", 6, None, 3), obj("e/", 0)]
    same = built(base).generation
    assert built(base).generation == same
    assert built([obj("a", 5, modified_s=99), *base[1:]]).generation == same  # the ETag tells that it is the same
    others = [
        built([obj("a", 6), *base[1:]]),
        built([obj("a", 5, "other"), *base[1:]]),
        built([obj("a2", 5), *base[1:]]),
        built([base[0], obj("b/c", 6, None, 4), base[2]]),
        built(base[:2]),
        built([*base, obj("z", 0)]),
        built(base, origin_id="s3://other"),
        built([ObjectRef(o.key.replace("v1", "v2"), o.size, o.etag, o.modified_s) for o in base], prefix="lake/v2/"),
    ]
    assert len({same, *(other.generation for other in others)}) == len(others) + 1


def test_new_version_shares_the_packs_that_did_not_change(built):
    draw = random.Random(1)
    files = [obj(f"{n:05d}", draw.randint(1, 2 * MIB), md5(bytes([n % 256])).hexdigest()) for n in range(1500)]
    before = {identity for identity, _, _ in built(files).segments()}
    after = {identity for identity, _, _ in built([*files, obj("00700-new", 1000)]).segments()}
    assert len(before) > 30
    assert len(after - before) <= 2


def test_many_catalogs_are_built_at_once(tmp_path):
    """One that is closed must not be in the way of one whose file gets the inode of the first."""

    def build(thread):
        for number in range(40):
            path = tmp_path / f"{thread}-{number}"
            build_catalog(iter([ObjectRef("p/a", 1, "e", 0)]), prefix="p/", origin_id="s3://x", path=path)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(build, range(8))) == [None] * 8


def test_only_the_first_keys_left_out_are_named(built):
    summary = built(obj(f"a//{n:04d}") for n in range(150)).summary
    assert (summary.left_out, len(summary.left_out_examples)) == (150, 100)
    assert summary.left_out_examples[0] == (PREFIX + "a//0000", "has an empty component")


def test_objects_out_of_order_are_refused(tmp_path):
    for wrong in ([obj("b"), obj("a")], [obj("a"), obj("a")], [obj("a"), ObjectRef("z", 1, None, 1)]):
        with pytest.raises(ValueError, match="not behind"):
            build_catalog(iter(wrong), prefix=PREFIX, origin_id=ORIGIN, path=tmp_path / "c.mdb")


def test_many_threads_read_one_catalog(built):
    found = built(obj(f"d{n % 7}/{n:05d}", n + 1) for n in range(3000))
    expected = [(entry, found.object_of(entry)) for entry in files(found)]
    wrong = []

    def read(seed):
        draw = random.Random(seed)
        for _ in range(15):
            folder = found.resolve(f"d{draw.randrange(7)}")
            for entry, _ in zip(found.children(folder.index), range(draw.randrange(600)), strict=False):
                if entry.parent != folder.index or found.entry(entry.index) != entry:
                    wrong.append(entry)
            for entry, ref in draw.sample(expected, 20):
                if found.object_of(entry) != ref or found.members(entry.pack, entry.member, 1)[0].obj != ref:
                    wrong.append(entry)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_error_of_the_listing_leaves_nothing_behind(tmp_path):
    def objects():
        yield obj("a")
        raise OriginTemporaryError("503")

    with pytest.raises(OriginTemporaryError):
        build_catalog(objects(), prefix=PREFIX, origin_id=ORIGIN, path=tmp_path / "c.mdb")
    assert os.listdir(tmp_path) == []


def test_catalog_appears_complete_in_place_of_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "c.mdb"

    def build(name):
        return build_catalog(iter([obj(name)]), prefix=PREFIX, origin_id=ORIGIN, path=path)

    build("old")
    replace = os.replace

    def look_and_replace(new, old):
        with closing(Catalog(path)) as found:
            assert found.resolve("old")
        replace(new, old)

    monkeypatch.setattr(os, "replace", look_and_replace)
    build("new")
    with closing(Catalog(path)) as found:
        assert [entry.name for entry in files(found)] == [b"new"]
    assert os.listdir(tmp_path) == ["c.mdb"]

    def fail(*_):
        raise OSError(5, "I/O error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="I/O error"):
        build("newer")
    assert os.listdir(tmp_path) == ["c.mdb"]


def test_full_map_is_an_error_with_the_name_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_build, "MAP_SIZE", 1 << 18)
    objects = (obj(f"{n:06d}") for n in range(10_000))
    with pytest.raises(CatalogFileError, match=r"c\.mdb"):
        build_catalog(objects, prefix=PREFIX, origin_id=ORIGIN, path=tmp_path / "c.mdb")
    assert os.listdir(tmp_path) == []


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "c.mdb"
    objects = [obj(f"{n:06d}") for n in range(5000)]
    build_catalog(iter(objects), prefix=PREFIX, origin_id=ORIGIN, path=path)
    size = path.stat().st_size
    for damage in (
        lambda: os.truncate(path, size // 2),
        lambda: os.truncate(path, 100),
        lambda: path.write_bytes(b"?" * size),
    ):
        damage()
        with pytest.raises(CatalogFileError):
            Catalog(path)
    with pytest.raises(CatalogFileError):
        Catalog(tmp_path / "missing.mdb")
    with lmdb.open(str(tmp_path / "foreign.mdb"), subdir=False, lock=False):
        pass
    with pytest.raises(CatalogFileError):
        Catalog(tmp_path / "foreign.mdb")


def test_catalog_of_an_unknown_format_is_refused_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_format, "FORMAT", b"dsfs catalog 2")
    build_catalog(iter([obj("a")]), prefix=PREFIX, origin_id=ORIGIN, path=tmp_path / "c.mdb")
    monkeypatch.undo()
    with pytest.raises(CatalogFileError, match="unknown format b'dsfs catalog 2'"):
        Catalog(tmp_path / "c.mdb")


def test_memory_does_not_grow_with_the_number_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_build, "COMMIT_EVERY", 200)

    def peak(count):
        objects = (obj(f"{n // 100:05d}/{n:07d}", 100_000) for n in range(count))
        tracemalloc.start()
        try:
            build_catalog(objects, prefix=PREFIX, origin_id=ORIGIN, path=tmp_path / "c.mdb")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what is made once
    assert peak(6000) < 1.3 * peak(1500)
