"""The last few levels, or some by index."""

from __future__ import annotations

import pytest

from fxfeat.errors import RequestError
from fxfeat.vision.level_indices import Wording, read_level_indices

WORDING = Wording("levels", "an int or several", ", of 4.", "; 0 to 3.")


@pytest.mark.parametrize(
    ("given", "indices"), [(1, (3,)), (4, (0, 1, 2, 3)), ((-1, 0), (3, 0)), ([2, 2], (2, 2)), (range(2), (0, 1))]
)
def test_indices_are_read_in_the_order_asked(given, indices):
    assert read_level_indices(given, 4, WORDING) == indices


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "levels=0 asks for the last 0 levels, of 4."),
        (5, "levels=5 asks for the last 5 levels, of 4."),
        ((1, 4), "levels=(1, 4) asks for level 4; 0 to 3."),
        ([-5], "levels=(-5,) asks for level -5; 0 to 3."),
        (True, "levels is True; it must be an int or several."),
        ("01", "levels is '01'; it must be an int or several."),
        ((1, True), "levels is (1, True); it must be an int or several."),
        ((), "levels is (); it must be an int or several."),
    ],
)
def test_an_error_says_what_was_asked_and_what_there_is(given, message):
    with pytest.raises(RequestError) as caught:
        read_level_indices(given, 4, WORDING)
    assert str(caught.value) == message


def test_none_asked_for_may_have_words_of_its_own():
    with pytest.raises(RequestError, match=r"^Ask for one\.$"):
        read_level_indices([], 4, Wording("levels", "an int", ".", ".", empty="Ask for one."))
