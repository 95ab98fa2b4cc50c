"""Any content of `mapping.json` is read, or refused with the name of the file."""

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from made_json import changed
from nnunet_moe.commands.package import TARGETS
from nnunet_moe.commands.package.mapping import IMAGE_ENDINGS, InputMapping
from nnunet_moe.errors import NnunetMoeError, SettingsError

KEYS = st.text("aZ0._+-", min_size=1, max_size=6)
MODALITIES = st.one_of(st.none(), st.text())


@st.composite
def mappings(draw):
    """A mapping that is right: its names begin with a letter, and its output suits its target."""
    target = draw(st.sampled_from(TARGETS))
    inputs = draw(st.dictionaries(KEYS.map("a".__add__), MODALITIES, max_size=4))
    output = "images/a" if target == "grand-challenge" else draw(st.sampled_from(IMAGE_ENDINGS))
    step_size = draw(st.floats(0, 1, exclude_min=True))
    return InputMapping(target, inputs, output, step_size, draw(st.booleans()))


@given(mappings())
def test_a_mapping_survives_its_file(mapping):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mapping.json"
        mapping.write(file)
        assert InputMapping.read(file) == mapping


@given(mappings().flatmap(lambda mapping: changed(json.loads(json.dumps(mapping.__dict__)))))
def test_a_changed_mapping_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mapping.json"
        file.write_text(json.dumps(content))
        try:
            found = InputMapping.read(file)
        except SettingsError as error:
            assert str(file) in str(error)
            return
        defaults = {name: getattr(found, name) for name in [*found.__dict__][3:]}  # three keys are required
        assert found.__dict__ == {**defaults, **content}
        assert not found.output_file.is_absolute() and ".." not in found.output_file.parts


@given(mappings(), st.data())
def test_files_are_given_to_the_modalities_of_their_keys_or_refused(mapping, data):
    keys = data.draw(st.lists(st.sampled_from([*mapping.inputs]), max_size=4)) if mapping.inputs else []
    found = [(key, Path(f"{data.draw(st.integers(0, 3))}.nii")) for key in keys]
    pairs = [(mapping.inputs[key], file) for key, file in found if mapping.inputs[key] is not None]
    files = dict(pairs)
    try:
        assert mapping.files(found) == files
    except NnunetMoeError:
        assert not files or len(files) < len(pairs) or len(set(files.values())) < len(pairs)
