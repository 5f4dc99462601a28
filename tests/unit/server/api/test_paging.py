"""Pagination tokens."""

import pytest

from cakework.domain.ids import new_build_id, new_function_id, new_invocation_id, new_vm_id
from cakework.server.api.paging import place_of, token_of
from cakework.server.store.pages import Place


@pytest.mark.parametrize("new", [new_build_id, new_function_id, new_invocation_id, new_vm_id])
def test_a_place_comes_back_from_its_token(new: object) -> None:
    """Whatever ids the list is of."""
    assert callable(new)
    place = Place(1_800_000_000_000, str(new()))
    assert place_of(token_of(place)) == place
