import json
import multiprocessing
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustad.deploy.journal import Journal, read_journal
from robustad.errors import InputError, StateError

RECORDS = [{"key": "a", "score": 0.1}, {"key": "ü\udcff"}, {"key": "c", "deep": [{"x": None}]}]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "journal.jsonl"


def test_what_was_appended_is_read_back(path):
    with Journal(path) as journal:
        journal.append(RECORDS[:1])
        journal.append(RECORDS[1:])
        assert list(journal) == RECORDS
    with Journal(path) as journal:
        assert list(journal) == RECORDS
        assert journal.torn_bytes == 0
        journal.append([{"key": "d"}])
    assert list(read_journal(path)) == [*RECORDS, {"key": "d"}]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [*RECORDS, {"key": "d"}]


def test_every_torn_end_is_cut_off(path):
    with Journal(path) as journal:
        journal.append(RECORDS)
    content = path.read_bytes()
    ends = [0]
    for line in content.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = sum(end <= length for end in ends) - 1
        assert list(read_journal(path)) == RECORDS[:whole]
        with Journal(path) as journal:
            assert journal.torn_bytes == length - ends[whole]
            journal.append([{"key": "next"}])
        assert list(read_journal(path)) == [*RECORDS[:whole], {"key": "next"}]


@given(st.binary(max_size=40).map(lambda tail: tail.replace(b"{", b"[")))
def test_any_tail_that_is_no_record_is_cut_off(tmp_path_factory, tail):
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(RECORDS)
    with path.open("ab") as file:
        file.write(tail)
    with Journal(path) as journal:
        assert list(journal) == RECORDS
        assert journal.torn_bytes == len(tail)


@pytest.mark.parametrize("wrong", [b"garbage\n", b"\0" * 30 + b"\n", b"[1]\n", b"[" * 5000 + b"\n"])
def test_damage_before_the_end_is_not_passed_over(path, wrong):
    with Journal(path) as journal:
        journal.append(RECORDS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + wrong + lines[1])
    with pytest.raises(StateError, match=r"journal\.jsonl: line 2 is damaged, and 3 is not"):
        Journal(path)
    with pytest.raises(StateError, match="move it away to start anew"):
        list(read_journal(path))
    path.write_bytes(lines[0] + lines[1])
    Journal(path).close()  # the failed attempts left no lock behind


def test_one_process_at_a_time(path):
    with Journal(path), pytest.raises(InputError, match="in use by another process; give each"):
        Journal(path)
    Journal(path).close()


def _killed(path):
    journal = Journal(path)
    journal.append(RECORDS)
    os.kill(os.getpid(), 9)


def test_a_killed_process_leaves_no_lock(path):
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -9
    with Journal(path) as journal:
        assert list(journal) == RECORDS


def test_a_full_disk(path):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full here")
    with Journal(path) as journal:
        journal._file.close()
        journal._file = open("/dev/full", "ab")  # noqa: PTH123, SIM115
        with pytest.raises(StateError, match=r"cannot be written: No space left on device"):
            journal.append(RECORDS)
        journal._file = path.open("ab")


def test_no_journal(tmp_path):
    with pytest.raises(InputError, match="no such journal"):
        read_journal(tmp_path / "journal.jsonl")
