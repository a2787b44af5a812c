"""How often a story is told with the guard off."""

import pytest

from beds.yard import Controls, Told


@pytest.mark.parametrize(("uses_most", "tellings"), [(0, 1), (1, 6), (2, 3)])
def test_a_control_is_told_anew_after_so_many_uses(uses_most: int, tellings: int) -> None:
    told: list[str] = []

    def story(kind: str, *, guarded: bool) -> Told:
        assert not guarded
        told.append(kind)
        return {"telling": told.count(kind)}

    controls = Controls()
    controls.uses_most = uses_most
    for _ in range(6):
        controls.told(story, ("real",))
    assert controls.told(story, ("fake",)) == {"telling": 1}
    assert told.count("real") == tellings
