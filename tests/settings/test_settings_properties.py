"""Any JSON under the key of the settings is read, or refused with its key."""

import json
from dataclasses import asdict, fields

from hypothesis import given
from hypothesis import strategies as st

from made_json import JSON, changed
from nnunet_moe.errors import SettingsError
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.fields import range_of
from nnunet_moe.settings.plans import METHODS, known_settings, read_settings

DEFAULTS = {name: value for method in METHODS for name, value in asdict(method()).items() if name in known_settings()}
GOOD = {
    **{name: list(value) if isinstance(value, tuple) else value for name, value in DEFAULTS.items()},
    "modality_code": [1, 0, 1],
    "label_sets": [[1, 0], [1, 1], [0, 1]],
    "teacher": "CT",
    "placement": ["stem", "decoder"],
}
NUMBERS = st.sampled_from([0, 1, 3, 96, True, 1.0, 0.0])
VALUES = st.one_of(JSON, NUMBERS, st.lists(NUMBERS, max_size=3), st.just("loop"))
SETTINGS = st.one_of(changed(GOOD), st.dictionaries(st.sampled_from([*GOOD]), VALUES))


@given(SETTINGS)
def test_settings_are_read_or_refused(written):
    content = {"nnunet_moe": written}
    for method in (Settings, *METHODS):
        try:
            found = read_settings(method, content)
        except SettingsError as error:
            assert not isinstance(written, dict) or any(repr(key) in str(error) for key in written)
            continue
        hash(found)
        for field in fields(method):
            value = written.get(field.name, field.default) if range_of(field) else field.default
            assert json.dumps(getattr(found, field.name)) == json.dumps(value)
        # what was accepted is accepted again, as plans keep it
        assert read_settings(method, json.loads(json.dumps(content))) == found
