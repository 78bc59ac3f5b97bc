"""Many cases of one behaviour in one test: all are tried, and every one that fails is named.

    @every("word", ["", "a b", "é"])
    def test_a_name_that_is_refused(word: str) -> None:

reads as `pytest.mark.parametrize` does. Each case of that costs pytest 5 to 10 ms, and is collected again by
each worker; a case here costs its own work. It is for cases that make all they need by themselves: fixtures
are made once for all of them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest


def every(
    names: str | Sequence[str], values: Iterable[Any] | Callable[[], Iterable[Any]]
) -> Callable[[Callable[..., Any]], Any]:
    """The test runs with each of these values under these names; several of these decorators multiply.

    A function is asked for the values when the test runs, so that collecting tests costs nothing of theirs.
    """
    given = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

    # An enum is both: its members are meant.
    ask = list(values).copy if isinstance(values, Iterable) else values

    def all_cases() -> list[dict[str, Any]]:
        return [dict(zip(given, _values(value, len(given)), strict=True)) for value in ask()]

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(test):

            @functools.wraps(test)
            async def each_awaited(**fixtures: Any) -> None:
                failures, cases = [], all_cases()
                for case in cases:
                    try:
                        await test(**case, **fixtures)
                    except (Exception, pytest.fail.Exception) as failure:
                        failures.append(_named(failure, case))
                _raise(failures, len(cases))

            return _without(given, each_awaited, test)

        @functools.wraps(test)
        def each(**fixtures: Any) -> None:
            failures, cases = [], all_cases()
            for case in cases:
                try:
                    test(**case, **fixtures)
                except (Exception, pytest.fail.Exception) as failure:
                    failures.append(_named(failure, case))
            _raise(failures, len(cases))

        return _without(given, each, test)

    return decorate


def _values(value: Any, names: int) -> Sequence[Any]:
    if isinstance(value, type(pytest.param())):
        values: Sequence[Any] = value.values
        return values
    return [value] if names == 1 else value


def _named(failure: BaseException, case: dict[str, Any]) -> BaseException:
    failure.add_note(f"with {', '.join(f'{name}={value!r}'[:200] for name, value in case.items())}")
    return failure


def _raise(failures: list[BaseException], cases: int) -> None:
    assert cases, "no case: this test would test nothing"
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise BaseExceptionGroup(f"{len(failures)} of {cases} cases failed", failures)


def _without(names: list[str], wrapper: Callable[..., Any], test: Callable[..., Any]) -> Callable[..., Any]:
    """`wrapper` with the signature of `test`, these names left out: pytest would look for such fixtures."""
    signature = inspect.signature(test)
    missing = set(names) - signature.parameters.keys()
    assert not missing, f"{test.__name__} does not take {missing}"
    kept = [parameter for name, parameter in signature.parameters.items() if name not in names]
    wrapper.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return wrapper
