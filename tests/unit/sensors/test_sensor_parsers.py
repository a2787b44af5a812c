"""The parsers of kernel text: right on recorded files, and never an exception on any other."""

import os

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ollama_guard.cgmounts import parse_mounts
from ollama_guard.sentinel.sensors.argv import parse_argv, split_cmdline
from ollama_guard.sentinel.sensors.cgroup import CacheUse, parse_limit, parse_memory_stat
from ollama_guard.sentinel.sensors.cgtree import parse_membership
from ollama_guard.sentinel.sensors.files import SLURP_LIMIT, keyed, keyed_kib, refaults
from ollama_guard.sentinel.sensors.host import is_container_view, parse_arcstats, parse_meminfo
from ollama_guard.sentinel.sensors.processes import parse_children, parse_stat, parse_status
from ollama_guard.sentinel.sensors.psi import Psi, parse_psi
from ollama_guard.sentinel.sensors.restraint import is_frozen
from unit.sensors.sensor_tree import GIB, MIB, corpus, every_recorded

PARSERS = (
    parse_meminfo,
    parse_arcstats,
    is_container_view,
    parse_psi,
    parse_limit,
    lambda data: parse_memory_stat(data, 1),
    lambda data: parse_memory_stat(data, 2),
    parse_mounts,
    parse_membership,
    parse_stat,
    parse_status,
    parse_children,
    lambda data: parse_argv(split_cmdline(data)),
    lambda data: keyed(data, b"oom_kill "),
    refaults,
    is_frozen,
)
RECORDED = every_recorded()
IN_DOCKER = "docker-5eed000000000000000000000000000000000000000000000000000000000001.scope"


def test_a_recorded_meminfo_is_read_in_bytes() -> None:
    memory = parse_meminfo(corpus("meminfo-debian12-6.18.txt"))
    assert memory.capacity_bytes == 24683656 * 1024
    assert 0 < (memory.available_bytes or 0) < memory.capacity_bytes
    assert (memory.swap_free_bytes, memory.reason) == (0, "")


def test_an_absurd_swap_is_unknown_and_spoils_nothing_beside_it() -> None:
    """Lxcfs without -u shows SwapFree near 2**64 while memory grows; earlyoom 1.7 dies of it."""
    text = corpus("bed4/meminfo-without-u.txt")
    assert b"SwapFree:       18446744073709551360 kB" in text
    memory = parse_meminfo(text)
    assert (memory.capacity_bytes, memory.available_bytes) == (GIB, 977384 * 1024)
    assert (memory.swap_free_bytes, memory.reason) == (None, "")


@pytest.mark.parametrize("swap", [b"SwapTotal: 0 kB\nSwapFree: 256 kB\n", b"SwapFree: 256 kB\n"])
def test_more_free_swap_than_swap_is_unknown(swap: bytes) -> None:
    """The same race of lxcfs with swap: not near 2**64, and absurd all the same."""
    memory = parse_meminfo(b"MemTotal: 100 kB\nMemAvailable: 50 kB\n" + swap)
    assert (memory.available_bytes, memory.swap_free_bytes, memory.reason) == (50 * 1024, None, "")


def test_a_small_hosts_own_memory_and_pressure_are_read_and_known_for_a_stand_in() -> None:
    memory = parse_meminfo(corpus("bed4/meminfo-with-u.txt"))
    assert (memory.capacity_bytes, memory.available_bytes) == (GIB, 141460 * 1024)
    assert (memory.swap_free_bytes, memory.reason) == (0, "")
    assert parse_psi(corpus("bed4/pressure.txt")) == Psi(8.17, 2.71, 1480559, 585829)
    assert is_container_view(corpus("bed4/mountinfo.txt"))
    assert not is_container_view(corpus("bed2/inside/proc/self/mountinfo"))


def test_swap_that_is_there_is_read() -> None:
    memory = parse_meminfo(corpus("bed3/docker-outside/proc/meminfo"))
    assert memory.swap_free_bytes == 523516 * 1024
    status = parse_status(corpus("bed3/docker-outside/proc/3049/status"))
    assert (status.anon_bytes, status.swap_bytes) == (39208 * 1024, 240 * 1024)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"MemTotal: 100 kB\nMemAvailable: 101 kB\n", "larger than MemTotal"),
        (b"MemTotal: 0 kB\nMemAvailable: 0 kB\n", "MemTotal is missing or absurd"),
        (b"MemTotal: 100 kB\n", "MemAvailable is missing or absurd"),
        (b"MemTotal: 100 kB\nMemAvailable: 5", "MemAvailable is missing or absurd"),
        (b"MemTotal: 100 kB\nMemAvailable: 18446744073709551360 kB\n", "MemAvailable is missing or absurd"),
        (b"MemTotal: 9007199254740992 kB\nMemAvailable: 5 kB\n", "MemTotal is missing or absurd"),
        (b"MemTotal: 100 kB\nMemAvailable: -5 kB\n", "MemAvailable is missing or absurd"),
        (b"", "MemTotal is missing or absurd"),
    ],
)
def test_absurd_memory_is_refused_with_its_reason(text: bytes, said: str) -> None:
    memory = parse_meminfo(text)
    assert memory.available_bytes is None
    assert said in memory.reason


def test_the_zfs_cache_that_can_go_is_added_since_memavailable_leaves_it_out() -> None:
    arc = parse_arcstats(corpus("arcstats-2.1.txt"))
    assert arc == 4697620480  # all that is evictable, which is less than size - c_min
    text = b"MemTotal: 16777216 kB\nMemAvailable: 1048576 kB\n"
    assert parse_meminfo(text, arc).available_bytes == GIB + arc
    assert parse_meminfo(text, 100 * GIB).available_bytes == 16 * GIB


def test_a_zfs_cache_below_its_minimum_gives_nothing_back() -> None:
    assert parse_arcstats(b"c_min 4 536870912\nsize 4 1000\n") == 0
    assert parse_arcstats(b"c_min 4 1000\nsize 4 5000\n") == 4000
    assert parse_arcstats(b"size 4 5000\n") == 0


def test_a_recorded_psi_file_is_read() -> None:
    psi = parse_psi(
        b"some avg10=12.50 avg60=1.00 avg300=0.10 total=49630\n"
        b"full avg10=3.01 avg60=0.00 avg300=0.00 total=7\n"
    )
    assert psi == Psi(12.5, 3.01, 49630, 7)
    assert parse_psi(corpus("pressure-6.18.txt")).full_avg10 is not None
    assert parse_psi(b"some avg10=250.00 avg60=0.00 avg300=0.00 total=1\n").some_avg10 is None


@pytest.mark.parametrize(
    ("name", "comm"),
    [
        ("spaces", "a b c"),
        ("parens", "x) R 1 (y"),
        ("newline", "x)\nR 1 1"),
        ("utf8", "мод\\xff"),
    ],
)
def test_a_hostile_process_name_never_shifts_the_fields(name: str, comm: str) -> None:
    stat = parse_stat(corpus(f"stat-comm-{name}.txt"))
    assert stat is not None
    assert stat.comm == comm
    assert stat.state == "R"
    assert (stat.parent, stat.start_ticks > 100_000) == (30346, True)


def test_a_recorded_status_gives_bytes_and_the_effective_user() -> None:
    status = parse_status(corpus("status-6.18.txt"))
    assert status.anon_bytes is not None
    assert (status.swap_bytes, status.user_id, status.is_init) == (0, 0, False)
    forged = parse_status(corpus("status-comm-newline.txt"))
    assert forged.user_id == 0


def test_the_init_of_a_container_is_known_from_outside_and_from_inside() -> None:
    for first, other in (("outside/proc/26548", "outside/proc/26720"), ("inside/proc/1", "inside/proc/20")):
        assert parse_status(corpus(f"bed2/{first}/status")).is_init
        assert not parse_status(corpus(f"bed2/{other}/status")).is_init


def test_reclaimable_is_clean_file_cache_and_slab_but_never_shmem() -> None:
    cache = parse_memory_stat(corpus("memory.stat-v2-6.1.txt"), 2)
    assert cache is not None
    assert cache.reclaimable_bytes(thrashing=False) == (300 + 112 + 16 - 1 - 2) * MIB
    assert cache.reclaimable_bytes(thrashing=True) == (300 + 16 - 1 - 2) * MIB


def test_a_recorded_memory_stat_of_v2_is_read() -> None:
    cache = parse_memory_stat(corpus("bed3/docker-inside/cgroup/memory.stat"), 2)
    assert cache == CacheUse(65536, 53248, 177064, 65536, 0)
    cache = parse_memory_stat(corpus(f"bed3/docker-outside/cgroup/system.slice/{IN_DOCKER}/memory.stat"), 2)
    assert cache == CacheUse(0, 0, 62384, 0, 0)


@pytest.mark.parametrize(
    "text", [b"a 1\nworkingset_refault_file 5\n", b"a 1\nworkingset_refault 5\n"], ids=["5.9", "older"]
)
def test_what_is_read_back_is_counted_in_4_kib_whatever_the_page(text: bytes) -> None:
    """The thresholds are so many 4 KiB a second; an ARM machine with pages of 64 KiB counts a sixteenth."""
    assert refaults(text, small_pages=16) == 80
    assert refaults(text) == 5 * os.sysconf("SC_PAGE_SIZE") // 4096
    assert refaults(b"a 1\n") is None


def test_v1_counts_the_children_too() -> None:
    cache = parse_memory_stat(corpus("memory.stat-v1-6.18.txt"), 1)
    total = keyed(corpus("memory.stat-v1-6.18.txt"), b"total_inactive_file ")
    assert cache is not None
    assert cache.inactive_bytes == total
    assert cache.slab_bytes == 0
    assert cache.refaults


@pytest.mark.parametrize("text", [b"max\n", b"9223372036854771712\n", b"18446744073709551615\n"])
def test_the_kernels_spellings_of_no_limit(text: bytes) -> None:
    assert parse_limit(text) == (None, True)


@pytest.mark.parametrize("text", [b"", b"-1\n", b"lots\n", b"1e9\n", b"9" * 500])
def test_a_limit_that_is_not_understood_is_not_taken_for_none(text: bytes) -> None:
    assert parse_limit(text) == (None, False)


@given(data=st.binary(max_size=4096))
def test_any_bytes_at_all_give_a_value_or_none(data: bytes) -> None:
    for parse in PARSERS:
        parse(data)


@given(
    name=st.sampled_from(RECORDED),
    cut=st.integers(0, 6000),
    noise=st.binary(max_size=40),
    at=st.integers(0, 6000),
)
def test_recorded_files_cut_off_and_broken_anywhere_give_a_value_or_none(
    name: str, cut: int, noise: bytes, at: int
) -> None:
    data = corpus(name)[:cut]
    for parse in PARSERS:
        parse(data[:at] + noise + data[at:])


# Pieces that the formats are made of: repeated, they make the longest numbers, lines and lists of each.
PIECES = (
    b"", b" ", b"\n", b"\0", b"9", b"-", b"(", b") ", b"/", b"\\040", b"oom_kill 1\n", b"frozen 1\n",
    b"MemTotal: 1 kB\n", b"Uid:\t1", b"NSpid:\t1\t1\n", b"--port\x001\x00", b"ollama\0runner\0",
    b"some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n", b"30 23 0:27 / /x rw - cgroup2 cgroup2 rw\n",
    b"30 23 0:27 / ", b" - cgroup cgroup rw,memory,", b"0::/a\n", b"1:memory:/a", b"anon 1\nshmem 1\n",
)  # fmt: skip


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    before=st.sampled_from(PIECES) | st.binary(max_size=40),
    piece=st.sampled_from(PIECES) | st.binary(min_size=1, max_size=40),
    after=st.sampled_from(PIECES),
    size=st.sampled_from([16 * 1024, SLURP_LIMIT]),
)
@example(before=b"oom_kill ", piece=b"9", after=b"\n", size=SLURP_LIMIT)
@example(before=b"1 (", piece=b") ", after=b"R 1", size=SLURP_LIMIT)
def test_text_as_long_as_is_read_at_all_gives_a_value_or_none(
    before: bytes, piece: bytes, after: bytes, size: int
) -> None:
    data = (before + piece * (size // max(len(piece), 1)))[: size - len(after)] + after
    for parse in PARSERS:
        parse(data)


@given(name=st.sampled_from(RECORDED))
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_recorded_files_over_and_over_give_a_value_or_none(name: str) -> None:
    data = corpus(name)
    for parse in PARSERS:
        parse((data * (SLURP_LIMIT // max(len(data), 1)))[:SLURP_LIMIT])


@given(digits=st.integers(0, 10**60))
def test_a_number_is_believed_below_two_to_the_63_only(digits: int) -> None:
    assert keyed(b"oom_kill %d\n" % digits, b"oom_kill ") == (digits if digits < 2**63 else None)
    value = keyed_kib(b"MemTotal:   %d kB\n" % digits, b"MemTotal:")
    assert value == (digits * 1024 if digits * 1024 < 2**63 else None)


def test_a_key_is_a_whole_word_at_the_start_of_a_line() -> None:
    assert keyed(b"total_inactive_file 7\ninactive_file 5\n", b"inactive_file ") == 5
    assert keyed(b"total_inactive_file 7\n", b"inactive_file ") is None
