"""The alignment of a container is a setting of `mapping.json`, and its messages name the keys of that file."""

import json

import pytest
from made_grids import BESIDE, FINE, HALF, write_image

from facts import facts
from nnunet_moe.commands.package.mapping import InputMapping
from nnunet_moe.commands.package.program import alignment_lines
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.alignment.case import align_case

NAMES = ("CT", "PET")


@pytest.fixture
def mapping(tmp_path):
    """Read a mapping file with these values."""

    def read(**values):
        file = tmp_path / "mapping.json"
        file.write_text(json.dumps({"target": "plain", "inputs": {"_0000": "CT"}, "output": ".nii.gz", **values}))
        return InputMapping.read(file)

    return read


def test_the_share_and_the_reference_of_the_training_hold_unless_others_are_given(mapping):
    trained = {"alignment": {"align": "rigid", "reference": "PET", "min_covered": 0.2}}
    assert not mapping().alignment.for_dataset(trained, NAMES).is_on
    found = mapping(align="grid").alignment.for_dataset(trained, NAMES)
    assert (found.align, found.reference, found.share) == ("grid", "PET", 0.2)
    found = mapping(align="grid", reference="CT", min_covered=0.7).alignment.for_dataset(trained, NAMES)
    assert (found.reference, found.share) == ("CT", 0.7)
    written_by_an_earlier_version = mapping(align="off", reference=None, min_covered=0.5)
    assert not written_by_an_earlier_version.alignment.for_dataset({}, NAMES).is_on


@pytest.mark.parametrize("value", ["affine", None, 3, []])
def test_an_unknown_alignment_is_refused(mapping, value):
    with pytest.raises(SettingsError, match=facts("mapping.json", "align", "grid", "rigid")):
        mapping(align=value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"align": "grid", "reference": "T1w"}, ('"reference": "T1w"', "CT, PET")),
        ({"align": "off", "reference": "CT"}, ('"reference"', '"align": "grid"')),
        ({"align": "off", "min_covered": 0.3}, ('"min_covered"', '"align": "rigid"')),
    ],
)
def test_values_that_do_not_fit_are_refused_by_their_keys(mapping, values, said):
    with pytest.raises(SettingsError, match=facts("mapping.json", *said)) as refused:
        mapping(**values).alignment.for_dataset({}, NAMES)
    assert "--" not in str(refused.value)


def test_a_case_fails_by_the_keys_and_its_log_says_what_happened(mapping, tmp_path):
    files = {"CT": write_image(tmp_path / "CT.nii.gz", FINE), "PET": write_image(tmp_path / "PET.nii.gz", BESIDE)}
    settings, targets = mapping(align="grid").alignment, {"PET": tmp_path / "new.nii.gz"}
    with pytest.raises(ModalityError, match=facts("PET.nii.gz", '"min_covered"', '"reference"')) as refused:
        align_case(files, targets, settings)
    assert "--" not in str(refused.value)
    write_image(tmp_path / "PET.nii.gz", HALF)
    aligned = align_case(files, targets, settings)
    share = f"{aligned.alignments['PET'].covered:.0%}"
    assert alignment_lines("a", aligned) == ["a: CT reference", f"a: PET resampled, covers {share} of CT"]
    assert alignment_lines("a", None) == []
