"""Filters of events: the grammar of the contract, and that strangers' filters and events cost
little."""

import hashlib
import json
import random
from typing import Annotated, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import StringConstraints, TypeAdapter, ValidationError

from cakework.domain.pattern_rules import Looks
from cakework.domain.patterns import (
    ABSENT,
    LOOKS_MAX,
    PATH_PATTERN,
    TYPE_PATTERN,
    BadPattern,
    Pattern,
    key_of,
    matches_type,
    value_at,
)
from tests.properties import examples

ORDER = {
    "type": ["order.paid"],
    "data": {
        "total": [{"numeric": [">", 100]}],
        "tags": ["vip"],
        "$or": [{"country": ["DE"]}, {"express": [True]}],
    },
}


def takes(rules: object, value: object) -> bool:
    return Pattern.compile({"data": {"x": rules}}).matches({"data": {"x": value}})


def valid_by(pattern: str, text: str) -> bool:
    """Whether a field of the API that has this pattern takes it."""
    field: TypeAdapter[str] = TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    try:
        field.validate_python(text)
    except ValidationError:
        return False
    return True


def fault(filter_: object) -> BadPattern:
    with pytest.raises(BadPattern) as raised:
        Pattern.compile(filter_)
    return raised.value


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        ({"total": 120, "tags": ["new", "vip"], "country": "DE"}, True),
        ({"total": 120, "tags": "vip", "express": True}, True),
        ({"total": 100, "tags": ["vip"], "country": "DE"}, False),
        ({"total": 120, "tags": ["new"], "country": "DE"}, False),
        ({"total": 120, "tags": ["vip"], "country": "FR", "express": False}, False),
        ({"tags": ["vip"], "country": "DE"}, False),
        ("text", False),
    ],
)
def test_the_filter_of_the_contract_takes_what_it_says(data: object, taken: bool) -> None:
    """Fields and, lists or, one pattern of ``$or``."""
    assert Pattern.compile(ORDER).matches({"type": "order.paid", "data": data}) is taken


RULES: list[tuple[object, list[object], list[object]]] = [
    (["DE", "AT"], ["DE", "AT", ["FR", "AT"]], ["de", "", None, 1, {}, [], ABSENT]),
    ([1], [1, 1.0], [True, "1", 1.5]),
    ([1.0], [1], [True]),
    ([True], [True], [1, "true", False]),
    ([0, False], [0, 0.0, False, -0.0], [None, ""]),
    ([None], [None, [None]], [ABSENT, 0, False, "", "null"]),
    ([10**300], [10**300], [1e300, 10**300 + 1]),
    ([{"prefix": "or"}], ["or", "order"], ["Order", "for", 0]),
    ([{"prefix": ["a", "b"]}], ["ax", "bx"], ["cx"]),
    ([{"suffix": ".png"}], ["a.png", ".png"], [".png?", "png"]),
    ([{"equalsIgnoreCase": "straße"}], ["STRASSE", "Straße"], ["strase", 1, None]),
    ([{"wildcard": "a*z"}], ["az", "abz", "azz"], ["a", "z", "azb", "baz"]),
    ([{"wildcard": "a*a"}], ["aa", "aba"], ["a"]),
    ([{"wildcard": "*ab*ab*"}], ["abab", "xabyabz"], ["ab", "aab", "abb"]),
    ([{"wildcard": "a**b***"}], ["ab", "axbx"], ["a", "xab"]),
    ([{"wildcard": "*"}], ["", "x"], [None, 1]),
    ([{"wildcard": "plain"}], ["plain"], ["plain "]),
    ([{"wildcard": r"a\*\\b*"}], ["a*\\b", "a*\\bc"], ["axb", "a*b"]),
    ([{"wildcard": ["a*", "*b"]}], ["ax", "xb"], ["xax"]),
    ([{"anythingBut": "a"}], ["b", 1, None, False, ["a", "b"]], ["a", ["a"], [], {}, ABSENT]),
    ([{"anythingBut": ["a", 1, None]}], ["b", True], ["a", 1, 1.0, None]),
    ([{"anythingBut": {"prefix": "a"}}], ["b", 1], ["a", "ab"]),
    ([{"anythingBut": {"suffix": ["a", "b"]}}], ["c"], ["xa", "xb"]),
    ([{"anythingBut": {"wildcard": "a*b"}}], ["a"], ["ab", "acb"]),
    ([{"anythingBut": {"equalsIgnoreCase": "a"}}], ["b"], ["a", "A"]),
    ([{"numeric": [">", 0, "<=", 5]}], [1, 5, 0.1], [0, 5.1, True, "3", None]),
    ([{"numeric": ["<=", 5, ">", 0]}], [5], [0]),
    ([{"numeric": ["=", 3]}], [3, 3.0], [4, False]),
    ([{"numeric": [">=", 9007199254740993]}], [9007199254740993], [9007199254740992.0]),
    ([{"cidr": "10.0.0.0/8"}], ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.1", "::1", "x", 10]),
    ([{"cidr": "2001:db8::/32"}], ["2001:db8::1"], ["2001:db9::1", "10.0.0.1", "1" * 99]),
    ([{"cidr": "10.0.0.1"}], ["10.0.0.1"], ["10.0.0.2"]),
    ([{"exists": True}], ["", None, 0, [], {}, {"a": 1}], [ABSENT]),
    ([{"exists": False}], [ABSENT], ["", None, 0, [], {}]),
    ([{"exists": False}, "a"], [ABSENT, "a"], ["b"]),
]


@pytest.mark.parametrize(("rules", "taken", "others"), RULES)
def test_a_rule_takes_these_and_none_of_those(
    rules: object, taken: list[object], others: list[object]
) -> None:
    """1 is 1.0 and not true; what is absent is only taken by ``exists: false``."""
    pattern = Pattern.compile({"data": {"x": rules}})

    def matches(value: object) -> bool:
        return pattern.matches({"data": {} if value is ABSENT else {"x": value}})

    assert [value for value in taken if not matches(value)] == []
    assert [value for value in others if matches(value)] == []


def test_of_objects_in_a_list_one_has_to_have_all_that_is_asked_for() -> None:
    """Not one field here and the other there; lists in lists are as one."""
    pattern = Pattern.compile({"data": {"items": {"sku": ["a"], "count": [{"numeric": [">", 1]}]}}})
    apart = [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}]
    assert not pattern.matches({"data": {"items": apart}})
    assert pattern.matches({"data": {"items": [*apart, {"sku": "a", "count": 2}]}})
    assert pattern.matches({"data": {"items": [[], [[{"sku": "a", "count": 2}]]]}})


WITHOUT: list[object] = [{}, {"a": None}, {"a": []}, {"a": 1}, {"a": {}}, {"a": [{}]}]


@pytest.mark.parametrize("data", WITHOUT)
def test_a_field_is_absent_where_what_is_around_it_is(data: object) -> None:
    """An object that is not there, or is none, has no fields."""
    absent = Pattern.compile({"data": {"a": {"b": [{"exists": False}]}}})
    there = Pattern.compile({"data": {"a": {"b": [{"exists": True}]}}})
    assert absent.matches({"data": data})
    assert not there.matches({"data": data})
    assert absent.matches({})


def test_a_choice_may_be_in_a_choice_and_beside_fields() -> None:
    """``$or`` at the top, within, and in itself."""
    pattern = Pattern.compile(
        {"$or": [{"type": ["a"]}, {"$or": [{"type": ["b"]}, {"subject": ["s"]}], "source": ["x"]}]}
    )
    assert pattern.matches({"type": "a"})
    assert pattern.matches({"type": "b", "source": "x"})
    assert pattern.matches({"subject": "s", "source": "x"})
    assert not pattern.matches({"type": "b"})


def test_the_end_user_goes_by_both_names() -> None:
    """``userId`` is the extension."""
    event = {"cakeworkuserid": "cust_1"}
    assert Pattern.compile({"userId": ["cust_1"]}).matches(event)
    assert Pattern.compile({"cakeworkuserid": ["cust_1"]}).matches(event)
    assert value_at(event, "userId") == "cust_1"


def test_no_fields_take_every_event() -> None:
    """A platform that has nothing to ask for asks for nothing."""
    assert Pattern.compile({}).matches({"type": "x"})


def in_one_another(depth: int) -> object:
    filter_: object = [1]
    for _ in range(depth):
        filter_ = {"a": filter_}
    return filter_


REFUSED: list[tuple[object, str, str]] = [
    ([], "", "must be an object of fields"),
    (None, "", "must be an object of fields"),
    ({"type": "a"}, "type", 'must be a list of what is asked for, such as ["a"]'),
    ({"type": []}, "type", "must not be empty"),
    ({"data": {}}, "data", "must have a field"),
    ({"data": {"a": [["x"]]}}, "data.a.0", "must be a value or an operator, not a list"),
    ({"data": {"a": [{}]}}, "data.a.0", "must have one operator"),
    ({"a": [{"prefix": "a", "suffix": "b"}]}, "a.0", "must have one operator"),
    ({"a": [{"anything-but": "a"}]}, "a.0.anything-but", "did you mean anythingBut?"),
    ({"a": [{"prefx": "a"}]}, "a.0.prefx", "is no operator; did you mean prefix?"),
    ({"a": [{"regex": "(a+)+"}]}, "a.0.regex", "is no operator"),
    ({"a": [{"zzzz": 1}]}, "a.0.zzzz", "is no operator: there are prefix, suffix"),
    ({"$and": [{"a": [1]}]}, "$and", "is unknown"),
    ({"data.total": [1]}, "data.total", 'fields in one another: {"data": {"total": ["…"]}}'),
    ({"$or": {}}, "$or", "must be a list of patterns"),
    ({"$or": []}, "$or", "must be a list of patterns"),
    ({"$or": [{}]}, "$or.0", "must have a field"),
    ({"$or": [["a"]]}, "$or.0", "must be an object of fields"),
    ({"a": [{"prefix": ""}]}, "a.0.prefix", "must be text that is not empty"),
    ({"a": [{"prefix": []}]}, "a.0.prefix", "must not be empty"),
    ({"a": [{"prefix": ["a", 1]}]}, "a.0.prefix.1", "must be text"),
    ({"a": [{"prefix": {"equalsIgnoreCase": "a"}}]}, "a.0.prefix", "must be text"),
    ({"a": [{"wildcard": "*a" * 9}]}, "a.0.wildcard", "has 9 stars, and 8 are allowed"),
    ({"a": [{"wildcard": "a\\b"}]}, "a.0.wildcard", "has a \\"),
    ({"a": [{"wildcard": "a\\"}]}, "a.0.wildcard", "has a \\"),
    ({"a": [{"anythingBut": []}]}, "a.0.anythingBut", "must not be empty"),
    ({"a": [{"anythingBut": [["a"]]}]}, "a.0.anythingBut.0", "must be text, a number"),
    ({"a": [{"anythingBut": {"cidr": "::/0"}}]}, "a.0.anythingBut.cidr", "is no operator"),
    ({"a": [{"anythingBut": {}}]}, "a.0.anythingBut", "must have one operator"),
    ({"a": [{"numeric": ">"}]}, "a.0.numeric", "must be such as"),
    ({"a": [{"numeric": [">", 1, "<"]}]}, "a.0.numeric", "must be such as"),
    ({"a": [{"numeric": ["!=", 1]}]}, "a.0.numeric.0", "must be one of"),
    ({"a": [{"numeric": [">", True]}]}, "a.0.numeric.1", "must be a number"),
    ({"a": [{"numeric": [">", float("nan")]}]}, "a.0.numeric.1", "must be a number that"),
    ({"a": [{"numeric": [">", 5, "<", 5]}]}, "a.0.numeric", "has no number"),
    ({"a": [{"numeric": [">", 1, ">=", 5]}]}, "a.0.numeric", "one bound below and one"),
    ({"a": [{"numeric": ["=", 1, "<", 5]}]}, "a.0.numeric", "one bound below and one"),
    ({"a": [10**400]}, "a.0", "must be a number of at most"),
    ({"a": [float("inf")]}, "a.0", "must be a number that there is"),
    ({"a": [{"cidr": "10.0.0.0/33"}]}, "a.0.cidr", "must be a network"),
    ({"a": [{"cidr": 10}]}, "a.0.cidr", "must be text"),
    ({"a": [{"exists": "yes"}]}, "a.0.exists", "must be true or false"),
    ({"a": ["\ud800"]}, "", "has text that is no Unicode"),
    ({"a": [b"x"]}, "", "must be JSON"),
    ({"a": ["x" * 4096]}, "", "is larger than 4096 bytes"),
    ({"a": ["é" * 2048]}, "", "is larger than 4096 bytes"),
    ({"a": [1] * 64, "b": [1]}, "b", "is one rule too many: 64 are allowed in all"),
    (in_one_another(9), "a.a.a.a.a.a.a.a", "is deeper than 8 fields"),
    (in_one_another(500), "", "is deeper than 8 fields"),
]


@pytest.mark.parametrize(("filter_", "path", "said"), REFUSED)
def test_what_is_no_filter_is_refused(filter_: object, path: str, said: str) -> None:
    """Each fault leads to its place and says what to do."""
    refused = fault(filter_)
    assert refused.path == path
    assert said in str(refused)


@pytest.mark.parametrize(
    "filter_",
    [in_one_another(8), {"a": [1] * 64}, {"a": ["x" * (4096 - len('{"a":[""]}'))]}, {"a": ["\0"]}],
)
def test_what_is_at_a_bound_is_taken(filter_: object) -> None:
    """Eight fields deep, 64 rules, 4 KiB."""
    Pattern.compile(filter_)


def test_it_says_why() -> None:
    """A line for each field and each ``$or``, in order; of this the pattern that matches."""
    event = {"type": "order.paid", "data": {"total": 80, "tags": ["new", "vip"], "express": True}}
    assert Pattern.compile(ORDER).because(event) == [
        'type is "order.paid": matches "order.paid"',
        "data.total is 80: does not match numeric > 100",
        'data.tags is ["new", "vip"]: matches "vip"',
        "data.$or: matches pattern 2 of 2",
        "data.express is true: matches true",
    ]
    assert Pattern.compile(ORDER).because({}) == [
        'type is absent: does not match "order.paid"',
        "data.total is absent: does not match numeric > 100",
        'data.tags is absent: does not match "vip"',
        "data.$or: does not match any of 2 patterns",
        'data.country is absent: does not match "DE"',
        "data.express is absent: does not match true",
    ]


def test_it_tells_of_the_object_that_matches() -> None:
    """Or of the first, when none does."""
    pattern = Pattern.compile({"data": {"items": {"sku": ["a"], "n": [{"numeric": [">", 1]}]}}})
    items = [{"sku": "b"}, {"sku": "a", "n": 2}]
    assert pattern.because({"data": {"items": items}}) == [
        'data.items.1.sku is "a": matches "a"',
        "data.items.1.n is 2: matches numeric > 1",
    ]
    assert pattern.because({"data": {"items": items[:1]}}) == [
        'data.items.0.sku is "b": does not match "a"',
        "data.items.0.n is absent: does not match numeric > 1",
    ]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"anythingBut": ["a", 1]}, 'anythingBut "a" or 1'),
        ({"anythingBut": {"prefix": "a"}}, 'anythingBut prefix "a"'),
        ({"wildcard": "a*"}, 'wildcard "a*"'),
        ({"numeric": [">", 0, "<=", 5]}, "numeric > 0 and <= 5"),
        ({"cidr": "10.1.2.3/8"}, "cidr 10.0.0.0/8"),
        ({"exists": False}, "exists false"),
        ({"equalsIgnoreCase": "É"}, 'equalsIgnoreCase "É"'),
    ],
)
def test_each_rule_is_told_in_words(rule: object, text: str) -> None:
    """As it was given, but shorter."""
    (line,) = Pattern.compile({"data": {"x": [rule]}}).because({"data": {"x": {"y": 1}}})
    assert line.removeprefix("data.x is {…}: does not match ") == text


def test_what_it_says_is_short_and_in_lines() -> None:
    """Whatever values and names are: long, of many lines, deep, of no Unicode."""
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    values = ["x" * 5000, "a\nb\0", "\udc00", [1] * 500, {"a": "x" * 5000}, deep, 10**2000, None]
    names = [f"{number}\n" for number in range(64)]
    pattern = Pattern.compile({"data": {name: ["é"] for name in names}})
    event = {"data": dict(zip(names, values * 8, strict=True))}
    lines = pattern.because(event)
    assert len(lines) == 64
    assert max(map(len, lines)) < 64 + 64
    assert not any("\n" in line or "\0" in line for line in lines)
    assert "\n".join(lines).encode()
    choices = Pattern.compile({"$or": [{"a": [1]}] * 64})
    assert len(choices.because({})) == 64


HARD = st.one_of(
    st.text(alphabet="ab*", max_size=6),
    st.integers(-2, 2),
    st.floats(-2, 2),
    st.booleans(),
    st.none(),
)
HARD_VALUES = st.recursive(
    HARD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner)
)


@given(st.text(alphabet="ab*", max_size=10), st.text(alphabet="ab", max_size=12))
def test_stars_are_what_anybody_would_find_by_trying(pattern: str, text: str) -> None:
    """As a search that tries everything finds."""

    def tried(stars: str, left: str) -> bool:
        if not stars:
            return not left
        if stars[0] == "*":
            return any(tried(stars[1:], left[at:]) for at in range(len(left) + 1))
        return left[:1] == stars[0] and tried(stars[1:], left[1:])

    runs = len([part for part in pattern.split("*") if part]) + 1
    if pattern and runs <= 8:
        assert takes([{"wildcard": pattern}], text) is tried(pattern, text)


def same(one: object, other: object) -> bool:
    """Whether two values are one in JSON."""
    kinds = [bool if isinstance(each, bool) else type(each) for each in (one, other)]
    numbers = {int, float}
    return one == other and (kinds[0] is kinds[1] or set(kinds) <= numbers)


def single(value: object) -> list[object]:
    """The elements of lists in one another, or the value itself."""
    if not isinstance(value, list):
        return [value]
    return [each for inner in cast(list[object], value) for each in single(inner)]


@given(st.lists(HARD, min_size=1, max_size=4), HARD_VALUES)
def test_values_are_equal_as_in_json(values: list[object], value: object) -> None:
    """A list matches if one of its elements is one of those that are asked for."""
    expected = any(same(each, one) for each in values for one in single(value))
    assert takes(values, value) is expected


@given(HARD_VALUES)
def test_anything_but_is_the_rest_of_single_values(value: object) -> None:
    """One of the two takes a value that is neither list nor object; no object is taken."""
    both = takes(["a", 1], value), takes([{"anythingBut": ["a", 1]}], value)
    if isinstance(value, dict):
        assert both == (False, False)
    elif not isinstance(value, list):
        assert both in ((True, False), (False, True))


HOSTILE_JSON = st.recursive(
    HARD,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["$or", "prefix", "wildcard", "numeric", "anythingBut", "exists", "cidr", "data"]
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=30,
)


@given(HOSTILE_JSON, HARD_VALUES)
def test_whatever_is_given_is_a_filter_or_refused(filter_: object, value: object) -> None:
    """With a path and a sentence part; and a filter says why as it matches."""
    try:
        pattern = Pattern.compile(filter_)
    except BadPattern as refused:
        assert str(refused)
        assert str(refused)[0].islower()
        return
    assert pattern.matches({"data": value}) in (True, False)
    assert all(": " in line for line in pattern.because({"data": value}))


def hostile(seed: int) -> object:
    """A filter that is as large, deep, wide or odd as one body of JSON can be."""
    chance = random.Random(seed)
    words = ["prefix", "suffix", "wildcard", "anythingBut", "numeric", "exists", "cidr", "$or", "x"]
    inner: object = chance.choice(["*a" * chance.randrange(60), 1e308, None, True, "\ud800", []])
    for _ in range(chance.choice([3, 10, 900])):
        word = chance.choice(words)
        wide = chance.choice([1, 2, 3]) if chance.random() < 0.1 else 1
        inner = [inner] * wide if chance.random() < 0.5 else {word: inner}
    flat = [chance.choice(words) * 9] * chance.choice([1, 100, 100_000])
    return chance.choice(
        [inner, {"a": inner}, {"a": [inner]}, {"a": flat}, flat, {"a": [{"x": 1}]}]
    )


@pytest.mark.parametrize("seed", range(examples(1000)))
def test_a_hostile_filter_is_refused_or_small(seed: int) -> None:
    """It never fails in another way, however large or deep it is."""
    given_ = hostile(seed)
    try:
        Pattern.compile(given_)
    except BadPattern:
        return
    assert len(json.dumps(given_)) <= 6 * 4096


TEXT = "a" * 262_000
COSTLY: list[tuple[object, object]] = [
    ([{"wildcard": f"*{'a' * (20 - i % 20)}b{'a' * (i % 20)}*"} for i in range(64)], TEXT),
    ([{"wildcard": "*aa*aa*aa*aa*aa*ab*"} for _ in range(64)], ["a" * 200] * 1300),
    ([{"numeric": [">", i, "<", i + 0.5]} for i in range(64)], list(range(43_000))),
    ([{"prefix": [chr(200 + i) for i in range(600)]}], [str(i) for i in range(30_000)]),
    ([{"cidr": f"10.{i}.0.0/16"} for i in range(64)], [f"1.1.1.{i % 256}" for i in range(16_000)]),
    ([{"equalsIgnoreCase": "s" * 3900}], ["ß" * 1900] * 2000),
    (["x"], [[]] * 87_000),
]


@pytest.mark.parametrize(("rules", "value"), COSTLY)
def test_what_would_cost_too_much_is_given_up(
    rules: object, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many looks, whatever the filter and the event are; and it says so."""
    spent: list[int] = []
    plain = Looks.spend

    def spend(looks: Looks, count: int) -> None:
        spent.append(count)
        plain(looks, count)

    monkeypatch.setattr(Looks, "spend", spend)
    assert not takes(rules, value)
    # The last was the one too many.
    assert sum(spent[:-1]) <= LOOKS_MAX < sum(spent)
    (line,) = Pattern.compile({"data": {"x": rules}}).because({"data": {"x": value}})
    assert line == "the rest is too much to compare: does not match"


def test_many_elements_and_long_texts_are_looked_through() -> None:
    """What is large but asked little of is compared to its end."""
    assert takes(["x"], ["y"] * 6_000 + ["x"])
    assert takes([{"wildcard": "*needle*"}, {"suffix": "z"}], "a" * 200_000 + "needle")
    assert takes([{"wildcard": f"*{'ab' * 900}c*"}], "ab" * 20_000 + "c")
    assert not takes([{"wildcard": f"*{'ab' * 900}c"}], "ab" * 20_000 + "cc")


def test_depth_of_events_is_no_recursion() -> None:
    """However deep lists are in one another."""
    deep: object = "x"
    for _ in range(10_000):
        deep = [deep]
    assert Pattern.compile({"data": ["x"]}).matches({"data": deep})
    fields: object = "x"
    for _ in range(10_000):
        fields = {"a": [fields]}
    assert not Pattern.compile({"data": {"a": ["x"]}}).matches({"data": fields})
    assert len(key_of({"data": deep}, "data")) <= 64
    assert len(key_of({"data": fields}, "data")) <= 64


@pytest.mark.parametrize(
    ("pattern", "type_", "taken"),
    [
        ("order.*", "order.paid", True),
        ("order.*", "order.paid.late", True),
        ("order.*", "order", False),
        ("order.*", "orders.paid", False),
        ("*", "anything", True),
        ("order.paid", "order.paid", True),
        ("order.paid", "order.paid.late", False),
    ],
)
def test_types_are_asked_for_by_name_or_beginning(pattern: str, type_: str, taken: bool) -> None:
    """A star at the end is the rest."""
    assert matches_type(pattern, type_) is taken


@pytest.mark.parametrize(
    ("pattern", "valid"),
    [
        *(("*", True), ("order.*", True), ("com.example/Order Paid é", True), ("a" * 256, True)),
        *(("a" * 255 + "*", True), ("a" * 256 + "*", False), ("a" * 257, False), ("", False)),
        *(("*.paid", False), ("a**", False), ("a\n", False), ("a\0", False)),
    ],
)
def test_patterns_of_types_are_checked(pattern: str, valid: bool) -> None:
    """A star is at the end alone."""
    assert valid_by(TYPE_PATTERN, pattern) is valid


@pytest.mark.parametrize(
    ("path", "valid"),
    [
        *(("subject", True), ("userId", True), ("data", True), ("data.customer.id", True)),
        *(("data.items.0.sku", True), ("data.a b", True), ("data." + "a" * 64, True)),
        *(("", False), ("customer.id", False), ("data.", False), ("data..a", False)),
        *(("data." + "a" * 65, False), ("data" + ".a" * 16, False), ("Data", False)),
        *(("data.a\n", False), ("$.data", False), ("data.a + 1\0", False)),
    ],
)
def test_paths_are_checked(path: str, valid: bool) -> None:
    """They are not expressions, and begin with a name that events have."""
    assert valid_by(PATH_PATTERN, path) is valid


def test_values_are_found_by_path() -> None:
    """``null`` is there; a part of what has no parts is not."""
    event = {"subject": "s", "data": {"a": {"b": None}, "list": [{"c": 1}], "0": "zero"}}
    assert value_at(event, "subject") == "s"
    assert value_at(event, "data.a.b") is None
    assert value_at(event, "data.list.0.c") == 1
    assert value_at(event, "data.0") == "zero"
    for absent in (
        "id",
        "userId",
        "subject.x",
        "data.a.b.c",
        "data.list.1",
        "data.list.-1",
        "data.x",
    ):
        assert value_at(event, absent) is ABSENT
    assert value_at(event, f"data.list.{'9' * 64}") is ABSENT
    assert value_at(event, "data.list.²") is ABSENT


SCALARS_APART: list[object] = [
    *(None, True, False, 0, 1, 1.5, "", "1", "true", "null", "absent", [], {}, [1], ["1"], [[1]]),
    *(
        {"a": 1},
        {"a": "1"},
        {"a": [1], "b": 2},
        [{"a": 1, "b": 2}],
        "x" * 5000,
        "x" * 5001,
        10**100,
    ),
    *("\ud800", "\0", [None], [True], ["a", "b"], ["a,b"], ['a","b'], "[]", "é"),
]


def test_keys_tell_values_apart() -> None:
    """Each has its own, and what is absent too; all of them are short and printable."""
    keys = [key_of({"data": {"x": value}}, "data.x") for value in SCALARS_APART]
    keys.append(key_of({"data": {}}, "data.x"))
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and key.isprintable() and 0 < len(key) <= 64 for key in keys)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (0, -0.0), ({"a": 1, "b": [2]}, {"b": [2], "a": 1}), (1e22, 10**22)],
)
def test_equal_values_have_one_key(one: object, other: object) -> None:
    """However they are written, in whichever order."""
    assert key_of({"data": one}, "data") == key_of({"data": other}, "data")


def test_keys_of_deep_values_are_written_as_those_of_others() -> None:
    """Whether recursion does or not depends on where it is asked, and the key does not."""
    value: object = json.loads('{"b": [1.5, {}, [], "é", null], "a": {"c": true}}')
    inner = json.dumps(value, sort_keys=True, separators=(",", ":"))
    for _ in range(5_000):
        value = [value]
    written = "[" * 5_000 + inner + "]" * 5_000
    digest = hashlib.sha224(written.encode()).hexdigest()
    assert key_of({"data": value}, "data") == f"#{digest}"


def test_keys_stay_what_they_are() -> None:
    """They are stored: a later version has to make the same."""
    assert key_of({"data": {"id": "cust_1"}}, "data.id") == '"cust_1"'
    assert key_of({}, "data.id") == "absent"
    assert key_of({"data": {"b": [1, True], "a": None}}, "data") == '{"a":null,"b":[1,true]}'
    assert key_of({"data": "x" * 100}, "data") == (
        "#345e10be3c2a0164cd1ca46673e175df82f12f17a7bdca6813b2bd64"
    )


@pytest.mark.parametrize(
    ("rule", "value", "few", "many"),
    [
        ({"equalsIgnoreCase": "x" * 3_000}, "\u0130" * 3_000, 5, 10),
        ({"cidr": "2001:db8::/32"}, "1111:2222:3333:4444:5555:6666:7777:8888", 200, 400),
    ],
)
def test_what_takes_long_is_given_up_sooner(rule: object, value: str, few: int, many: int) -> None:
    """Text that is not ASCII is folded, and addresses of IPv6 are read, many times as slowly."""
    pattern = Pattern.compile({"data": [rule, {"prefix": "last"}]})
    assert pattern.matches({"data": [*[value] * few, "last"]})
    assert not pattern.matches({"data": [*[value] * many, "last"]})
