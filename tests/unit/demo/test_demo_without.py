from ollama_guard.demo.without import Without

BUDGET = 1000


def test_what_the_guard_unloaded_is_missed_until_it_is_back() -> None:
    other = Without(BUDGET)
    other.sample(0.0, {"chat": 200, "coder": 300})
    assert other.available_bytes == 500
    other.unloaded("coder", 300, at=1.0)
    other.sample(2.0, {"chat": 200, "hog": 450})
    assert other.available_bytes == 50, "as if coder still held its 300"
    other.sample(3.0, {"chat": 200, "hog": 450, "coder": 120})
    assert other.available_bytes == 50, "what it holds again is not counted twice"
    assert other.out_at is None


def test_it_is_out_of_memory_at_the_first_moment_without_any_left() -> None:
    other = Without(BUDGET)
    other.unloaded("coder", 300, at=1.0)
    for at, hog in ((2.0, 600), (3.0, 700), (4.0, 900), (5.0, 100)):
        other.sample(at, {"hog": hog})
    assert other.out_at == 3.0
    assert other.worst_bytes == -200
    assert other.available_bytes == 600


def test_an_aborted_load_would_have_gone_on_at_its_own_pace_to_its_full_size() -> None:
    other = Without(BUDGET)
    other.aborted("giant", 500, born_at=10.0, pace=100.0)
    for at, expected in ((10.0, 1000), (12.0, 800), (15.0, 500), (60.0, 500)):
        other.sample(at, {})
        assert other.available_bytes == expected


def test_a_second_try_at_the_same_model_costs_nothing_more() -> None:
    other = Without(BUDGET)
    other.aborted("giant", 500, born_at=10.0, pace=100.0)
    other.aborted("giant", 500, born_at=14.0, pace=100.0)
    other.sample(15.0, {"giant": 40})
    assert other.available_bytes == 500
