import os
import threading

import pytest

from components.embedding.crew import crew_size, open_crew


def test_a_crew_is_as_large_as_asked_or_as_the_machine_is():
    assert crew_size(3) == 3
    assert crew_size(0) == min(os.cpu_count() or 1, 8)
    assert crew_size(100) == 8


def test_a_crew_of_one_is_the_caller():
    with open_crew(1) as crew:
        assert crew.submit(threading.get_ident).result() == threading.get_ident()


def test_a_crew_of_several_is_not():
    with open_crew(2) as crew:
        assert crew.submit(threading.get_ident).result() != threading.get_ident()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_comes_with_the_result(threads):
    with open_crew(threads) as crew:
        future = crew.submit(int, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            future.result()
        assert list(crew.map(int, ["1", "2"])) == [1, 2]
