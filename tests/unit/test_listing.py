"""Listing in parallel: complete, in order, without duplicates, with few more LISTs than one after the other."""

import os
import threading
from bisect import bisect_right
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfs.model.errors import AccessDeniedError, OriginError
from dsfs.model.objects import ObjectRef
from dsfs.storage.listing import list_version

PREFIX = "lake/v1/"


class PagingLister:
    """A bucket in memory that pages like S3; `before(n)` is called before LIST number n is answered."""

    def __init__(self, keys, *, page_size=1000, prefix=PREFIX, before=lambda number: None):
        self.keys = sorted({prefix + key for key in keys}, key=lambda key: key.encode())
        self.page_size = page_size
        self.lists = 0
        self._before = before
        self._lock = threading.Lock()

    def list_page(self, prefix, start_after, max_keys=1000):
        with self._lock:
            self.lists += 1
            number = self.lists
        self._before(number)
        begin = bisect_right(self.keys, max(start_after, prefix))
        end = min(begin + self.page_size, len(self.keys))
        while end > begin and not self.keys[end - 1].startswith(prefix):
            end -= 1
        page = [ObjectRef(key, len(key), f"etag of {key}", 7) for key in self.keys[begin:end]]
        return page, end < len(self.keys) and self.keys[end].startswith(prefix)

    @property
    def lists_one_after_the_other(self):
        return max(1, -(-len(self.keys) // self.page_size))


def listed(lister, spool_dir, **options):
    return [obj.key for obj in list_version(lister, PREFIX, spool_dir, **options)]


def assert_listed_well(lister, spool_dir):
    assert listed(lister, spool_dir) == lister.keys
    assert lister.lists <= 1.5 * lister.lists_one_after_the_other + 9


WORDS = ("apple", "banana", "cherry", "date", "elder", "fig", "grape", "hazel", "iris", "kiwi", "lemon", "olive")
LAKES = {
    "flat": [f"img_{n:06d}.jpg" for n in range(100_000)],
    "unpadded": [f"{n}.txt" for n in range(40_000)],
    "names that are cuts": [f"{n}" for n in range(30_000)],
    "leading zeros": [f"train/{n * 37:012d}.jpg" for n in range(30_000)],
    "hexadecimal": [f"{n * 2654435761 % 2**32:08x}" for n in range(30_000)],
    "words": [f"{WORDS[n % 12]}/{n:06d}" for n in range(30_000)],
    "one great directory among small ones": [
        *(f"{word}/a" for word in WORDS),
        *(f"fig/data/{n:09d}" for n in range(30_000)),
    ],
    "other scripts": [f"{chr(0x4E00 + n % 3000)}/{n:06d}" for n in range(30_000)],
    "beyond the first plane": [f"{chr(0x1F300 + n % 300)}/{n:06d}" for n in range(20_000)] + ["\uffee"],
    "long": ["a" * 500 + "/" + "b" * (508 - len(PREFIX)) + f"/{n:014d}" for n in range(20_000)],
    "order of slash": [f"x{mark}{n:05d}" for n in range(3_000) for mark in "-/0. "],
}


@pytest.mark.parametrize("keys", LAKES.values(), ids=LAKES)
def test_all_objects_come_once_and_in_order_with_few_more_lists(keys, tmp_path):
    lister = PagingLister(keys)
    assert max(len(key.encode()) for key in lister.keys) <= 1024
    assert_listed_well(lister, tmp_path)


@settings(max_examples=60)
@given(
    st.lists(st.text(st.sampled_from("019AZaz/-.é漢\U0001f600"), min_size=1, max_size=6), max_size=150),
    st.integers(1, 12),
)
def test_any_keys_come_once_and_in_order(tmp_path_factory, keys, page_size):
    lister = PagingLister(keys, page_size=page_size)
    assert_listed_well(lister, tmp_path_factory.getbasetemp())


def test_objects_come_as_they_were_listed(tmp_path):
    keys = [f"{n:05d}" for n in range(3000)]
    found = list(list_version(PagingLister(keys), PREFIX, tmp_path))
    assert found[2500] == ObjectRef(f"{PREFIX}02500", len(PREFIX) + 5, f"etag of {PREFIX}02500", 7)


def test_objects_without_etag_and_keys_with_odd_characters_survive_the_spool(tmp_path):
    class Odd(PagingLister):
        def list_page(self, prefix, start_after, max_keys=1000):
            page, is_truncated = super().list_page(prefix, start_after)
            return [ObjectRef(obj.key, 2**45, None, -1) for obj in page], is_truncated

    keys = [f"a\n\x01\ufffd {n}" for n in range(30)]
    found = list(list_version(Odd(keys, page_size=4), PREFIX, tmp_path))
    assert {(obj.size, obj.etag, obj.modified_s) for obj in found} == {(2**45, None, -1)}


def test_ranges_are_listed_at_the_same_time(tmp_path):
    together = threading.Barrier(8)  # breaks, and fails the listing, if 8 LISTs are never under way at once
    lister = PagingLister(LAKES["flat"], before=lambda number: 2 <= number <= 9 and together.wait(timeout=20))
    assert_listed_well(lister, tmp_path)


def test_no_more_lists_at_a_time_than_connections(tmp_path):
    lock, now, peak = threading.Lock(), 0, 0

    class Counting(PagingLister):
        def list_page(self, prefix, start_after, max_keys=1000):
            nonlocal now, peak
            with lock:
                now += 1
                peak = max(peak, now)
            try:
                return super().list_page(prefix, start_after)
            finally:
                with lock:
                    now -= 1

    assert listed(Counting(LAKES["words"]), tmp_path, connections=3) == Counting(LAKES["words"]).keys
    assert peak <= 3


def test_one_connection_lists_one_page_after_the_other(tmp_path):
    lister = PagingLister(LAKES["words"])
    assert listed(lister, tmp_path, connections=1) == lister.keys
    assert lister.lists == lister.lists_one_after_the_other


def test_small_version_takes_one_list_and_no_thread(tmp_path):
    threads = set()
    lister = PagingLister(["a", "b/c"], before=lambda _: threads.add(threading.current_thread()))
    assert listed(lister, tmp_path) == [PREFIX + "a", PREFIX + "b/c"]
    assert lister.lists == 1
    assert threads == {threading.main_thread()}
    assert listed(PagingLister([]), tmp_path) == []


def test_nothing_is_listed_before_the_first_object_is_wanted(tmp_path):
    lister = PagingLister(["a"])
    list_version(lister, PREFIX, tmp_path)
    assert lister.lists == 0


def test_neighbours_of_the_prefix_are_not_listed(tmp_path):
    lister = PagingLister([f"{n:04d}" for n in range(2500)])
    lister.keys = sorted([*lister.keys, "lake/v0/z", "lake/v1", "lake/v10/a", "lake/v2/a", "zebra"])
    assert listed(lister, tmp_path) == [key for key in lister.keys if key.startswith(PREFIX)]


def test_progress_grows_to_the_number_of_objects(tmp_path):
    told = []
    threads = set()

    def progress(objects):
        told.append(objects)
        threads.add(threading.current_thread())

    listed(PagingLister(LAKES["words"]), tmp_path, on_progress=progress)
    assert told == sorted(told)
    assert told[-1] == len(LAKES["words"])
    assert threads == {threading.main_thread()}


def listers():
    """The threads that list; those that trio keeps for a while after another test come and go."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("dsfs-list")}


@pytest.mark.parametrize("failing", [1, 2, 5, 20])
def test_first_error_of_the_origin_reaches_the_caller_and_ends_all(failing, tmp_path):
    error = AccessDeniedError("403")

    def fail(number):
        if number >= failing:
            raise error

    before = listers()
    with pytest.raises(AccessDeniedError) as raised:
        listed(PagingLister(LAKES["flat"], before=fail), tmp_path)
    assert raised.value is error
    assert listers() == before
    assert os.listdir(tmp_path) == []


def test_closed_early_it_stops_and_leaves_nothing(tmp_path):
    lister = PagingLister(LAKES["flat"])
    before = listers()
    with closing(list_version(lister, PREFIX, tmp_path)) as objects:
        assert next(objects).key == lister.keys[0]
        assert os.listdir(tmp_path) == []  # the spool has no name
    assert listers() == before
    assert os.listdir(tmp_path) == []


def test_full_disk_reaches_the_caller(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError, match="No space left"):
        listed(PagingLister(LAKES["words"]), tmp_path)


def test_partial_writes_of_the_spool_are_completed(tmp_path, monkeypatch):
    whole_pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: whole_pwrite(fd, content[:5000], offset))
    lister = PagingLister(LAKES["words"])
    assert listed(lister, tmp_path) == lister.keys


@pytest.mark.parametrize("page_size", [1000, 10])
def test_origin_with_another_order_of_keys_is_refused(page_size, tmp_path):
    lister = PagingLister([f"{n:03d}" for n in range(100)], page_size=page_size)
    lister.keys[37], lister.keys[38] = lister.keys[38], lister.keys[37]
    with pytest.raises(OriginError, match="out of order"):
        listed(lister, tmp_path)


def test_origin_that_ignores_where_to_start_is_refused(tmp_path):
    class Forgetful(PagingLister):
        def list_page(self, prefix, start_after, max_keys=1000):
            return super().list_page(prefix, "")

    with pytest.raises(OriginError, match="out of order"):
        listed(Forgetful(LAKES["words"]), tmp_path)
