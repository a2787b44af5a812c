"""Promises 4 and 8: which of several models goes, and what counts as one, on both servers."""

from __future__ import annotations

from beds.yard import GIB, MIB, Told, facts, unguarded, yard

SOFT_CAP_OF_ONE = "[cap]\nsoft_max = 1\n"
OMIT_TINY = '[models."tiny"]\npreference = "omit"\n'
SHELF = ("tiny", "tiny2", "tiny3")


def asked_for_in_turn(kind: str, config: str = "", *, guarded: bool) -> Told:
    """Three models, one after the other; after each the guard gets the time to make room."""
    with yard(kind, 2 * GIB, guarded=guarded, config=config) as place:
        stayed = []
        for model in SHELF:
            place.server.load(model)
            if guarded:
                alone = place.guard is not None and place.wait_count(1, 10)
                assert alone, place.evidence()
            stayed.append(place.loaded())
        return {"stayed": stayed, "evidence": place.evidence()}


def test_4_a_soft_cap_of_one_keeps_one_and_never_takes_what_the_owner_omits(kind: str) -> None:
    """Without a guard all three stay; with one only the newest, unless the owner says whom to spare."""
    assert unguarded(asked_for_in_turn, kind)["stayed"][-1] == set(SHELF)
    capped = asked_for_in_turn(kind, SOFT_CAP_OF_ONE, guarded=True)
    # Without the owner's line tiny, the least recently used, is the first to go.
    assert capped["stayed"] == [{"tiny"}, {"tiny2"}, {"tiny3"}], facts(capped)
    spared = asked_for_in_turn(kind, SOFT_CAP_OF_ONE + OMIT_TINY, guarded=True)
    assert spared["stayed"] == [{"tiny"}, {"tiny"}, {"tiny"}], facts(spared)


def two_names_of_one_blob(kind: str, *, guarded: bool) -> Told:
    """One blob asked for by both of its names, then a hog that needs what it holds."""
    with yard(kind, 1 * GIB, guarded=guarded) as place, place.hog() as hog:
        place.server.load("tiny")
        place.server.load("tiny-alias")
        place.wait_state("tiny", "idle")
        listed = place.guard.status()["models"] if place.guard else []
        loaded = {entry["name"] for entry in place.server.get("/api/ps")["models"]}
        installed = {entry["name"] for entry in place.server.get("/api/tags")["models"]}
        runners = len(place.server.runner_pids())
        hog.grow(880 * MIB, 300 * MIB)
        return {
            "hog finished": hog.wait(20),
            "oom kills": place.cgroup.oom_kills(),
            "runners": runners,
            "named by Ollama": loaded,
            "installed": installed,
            "listed": [{model["name"], *model["aliases"]} for model in listed],
            "unloaded": place.guard and place.guard.wait_event("model.unloaded", 5)["names"].split(", "),
            "victims": place.guard and len(place.guard.events("model.unloaded")),
            "evidence": place.evidence(),
        }


def test_8_two_names_of_one_blob_are_one_victim(kind: str) -> None:
    """One runner, one victim, one line that names both, though Ollama itself shows only one of them."""
    off = unguarded(two_names_of_one_blob, kind)
    assert off["oom kills"] != 0, facts(off)
    both = {"tiny:latest", "tiny-alias:latest"}
    # Who goes by the names: in the list of what is installed there are two models, in that of what is loaded
    # one, so the owner of the other name would never read where it went.
    assert both <= off["installed"], facts(off)
    assert len(off["named by Ollama"] & both) == 1, facts(off)
    told = two_names_of_one_blob(kind, guarded=True)
    assert told["oom kills"] == 0, facts(told)
    assert told["hog finished"], facts(told)
    assert told["runners"] == 1, facts(told)
    assert told["listed"] == [both], facts(told)
    assert set(told["unloaded"]) == both, facts(told)
    assert told["victims"] == 1, facts(told)
