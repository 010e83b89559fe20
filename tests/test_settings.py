"""Settings are what `dataclass(frozen=True)` would make of them."""

import copy
import dataclasses
import pickle

import pytest

from fastbp import Adam, Dense, Dropout, losses, schedules

SETTINGS = [
    Dense(3, "tanh", l2=0.1), Dropout(0.5), Adam(0.1), losses.Quantile([0.1, 0.5]),
    losses.SquaredError(), schedules.Cosine(0.1, 100),
]


def by_dataclasses(settings):
    """The same fields in a class that dataclasses alone has made."""
    fields = dataclasses.fields(settings)
    made = dataclasses.make_dataclass(
        type(settings).__name__, [(each.name, object) for each in fields], frozen=True
    )
    return made(**{each.name: getattr(settings, each.name) for each in fields})


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_they_equal_what_has_their_class_and_fields(settings):
    again = dataclasses.replace(settings)
    assert again is not settings
    assert again == settings
    assert hash(again) == hash(settings) == hash(by_dataclasses(settings))
    others = [other for other in SETTINGS if other is not settings]
    assert settings not in [*others, by_dataclasses(settings), dataclasses.astuple(settings), None]
    for copied in (copy.copy(settings), pickle.loads(pickle.dumps(settings))):
        assert copied == settings
        assert type(copied) is type(settings)


@pytest.mark.parametrize("settings", [Dropout(0.5), schedules.Cosine(0.1, 100)], ids=repr)
def test_they_show_all_their_fields(settings):
    assert repr(settings) == repr(by_dataclasses(settings))


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_nothing_about_them_changes(settings):
    plain, before = by_dataclasses(settings), repr(settings)
    for name in [*(each.name for each in dataclasses.fields(settings)), "name", "anything"]:
        for change in (lambda thing, name=name: setattr(thing, name, 1),
                       lambda thing, name=name: delattr(thing, name)):
            messages = []
            for thing in (settings, plain):
                with pytest.raises(dataclasses.FrozenInstanceError) as refused:
                    change(thing)
                messages.append(str(refused.value))
            assert messages[0] == messages[1]
    assert repr(settings) == before
