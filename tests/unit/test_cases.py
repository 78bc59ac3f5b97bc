"""Tests of many cases fail when one of them does, and name it."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.domain.errors import Code
from tests.harness.cases import every


def test_every_case_is_tried_and_each_failure_is_named() -> None:
    """A failure does not end the test: the cases after it are tried, and all that failed are reported."""
    tried = []

    @every("number", [1, 2, 3, 4])
    def test(number: int, fixture: str) -> None:
        tried.append((number, fixture))
        assert number % 2, "even"

    with pytest.raises(BaseExceptionGroup, match="2 of 4 cases failed") as caught:
        test(fixture="given")
    assert [(number, "given") for number in (1, 2, 3, 4)] == tried
    assert [["with number=2"], ["with number=4"]] == [one.__notes__ for one in caught.value.exceptions]


def test_cases_multiply() -> None:
    """Decorators above each other try every pair, and a single failure is raised as it is."""
    tried = set()

    @every(("first", "second"), [(1, 2), (3, 4)])
    @every("third", "ab")
    def test(first: int, second: int, third: str) -> None:
        tried.add((first, second, third))
        if (first, third) == (3, "b"):
            pytest.fail("as told")

    with pytest.raises(pytest.fail.Exception, match="as told") as caught:
        test()
    assert {(1, 2, "a"), (1, 2, "b"), (3, 4, "a"), (3, 4, "b")} == tried
    assert ["with third='b'", "with first=3, second=4"] == caught.value.__notes__


def test_cases_may_wait() -> None:
    """A test that is a coroutine is tried in the same way."""

    @every("number", [1, 2])
    async def test(number: int) -> None:
        await asyncio.sleep(0)
        assert number == 1

    with pytest.raises(AssertionError):
        asyncio.run(test())


def test_cases_may_be_asked_for_late() -> None:
    """A function that gives the cases is called when the test runs, and not before."""
    asked = []

    def numbers() -> list[int]:
        asked.append("now")
        return [1, 2]

    @every("number", numbers)
    def test(number: int) -> None:
        assert number == 1

    assert [] == asked
    with pytest.raises(AssertionError) as caught:
        test()
    assert ["with number=2"] == caught.value.__notes__


def test_members_of_an_enum_are_cases() -> None:
    """An enum can be called, too: its members are tried all the same."""
    tried = []

    @every("code", Code)
    def test(code: Code) -> None:
        tried.append(code)

    test()
    assert list(Code) == tried


def test_no_case_is_a_failure() -> None:
    """A test whose list of cases is empty fails, as is a case for a parameter that the test does not take."""

    @every("number", [])
    def test(number: int) -> None:
        raise AssertionError(number)

    with pytest.raises(AssertionError, match="no case"):
        test()
    with pytest.raises(AssertionError, match="does not take"):

        @every("other", [1])
        def another(number: int) -> None: ...
