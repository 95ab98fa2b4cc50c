"""Any labels mean what they mean to nnU-Net's label manager, or are refused; so do label sets and voxels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from made_json import JSON
from nnunet_moe.errors import ModalityError, NnunetMoeError
from nnunet_moe.labels.label_sets import LabelSets, covered, labels_in, output_names
from nnunet_moe.labels.labels import has_regions, labels_of, require_trainable_labels, voxel_values
from nnunet_moe.labels.voxels import require_known, whole_numbers

VALUES = st.one_of(*[st.integers(0, 4)] * 3, st.sampled_from(["0", "1", " 2", 1.0, 2.0, 0.5, True, False, None]))
LABELS = st.builds(
    lambda background, ignore, others: {**background, **others, **ignore},
    st.sampled_from([{"background": 0}, {"background": 0}, {"background": "0"}, {"background": [0]}, {}]),
    st.one_of(st.just({}), st.just({}), st.integers(1, 5).map(lambda value: {"ignore": value})),
    st.dictionaries(
        st.sampled_from(["lesion", "core", "edema", ""]), st.one_of(VALUES, st.lists(VALUES, max_size=3), JSON)
    ),
)
ALIKE = st.dictionaries(st.sampled_from(["lesion", "core", "edema"]), st.sampled_from([1, [1], "1", 2, [2]])).map(
    lambda labels: {"background": 0, **labels}
)
ORDERS = st.one_of(st.none(), st.lists(st.integers(1, 4), max_size=4), JSON)
NUMBERED = st.permutations(["lesion", "core", "edema", "vessel"]).map(
    lambda names: {"background": 0, **{name: value for value, name in enumerate(names, 1)}}
)


def of(labels, order) -> dict:
    return {"labels": labels, "channel_names": {"0": "CT", "1": "MRI"}, "regions_class_order": order}


@given(st.one_of(LABELS, JSON), ORDERS)
def test_labels_are_accepted_only_if_nnunet_can_use_them(labels, order):
    dataset_json = of(labels, order)
    try:
        require_trainable_labels(dataset_json)
    except ModalityError as error:
        assert "labels" in str(error) or "regions_class_order" in str(error)
        return
    manager = LabelManager(labels, order)
    assert has_regions(dataset_json) == manager.has_regions
    ignored = [] if manager.ignore_label is None else [manager.ignore_label]
    assert voxel_values(dataset_json) == [*map(int, manager.all_labels), *ignored]
    if manager.has_regions:
        regions = [tuple(region) if np.ndim(region) else region for region in manager.all_regions]
        assert [*labels_of(dataset_json).values()] == regions
        assert len(output_names(dataset_json)) == manager.num_segmentation_heads


@given(st.one_of(LABELS, ALIKE, NUMBERED), ORDERS, st.data())
def test_label_sets_have_the_outputs_of_nnunet(labels, order, data):
    names = st.lists(st.sampled_from([*labels, "lesion", "core"]), max_size=3)
    sets = data.draw(st.dictionaries(st.sampled_from(["CT", "MRI"]), st.one_of(names, names, JSON)))
    dataset_json = {**of(labels, order), "label_sets": sets}
    try:
        require_trainable_labels(dataset_json)
        found = LabelSets.of(dataset_json)
    except NnunetMoeError:
        return
    assert found is not None
    outputs = output_names(dataset_json)
    assert found.by_modality.shape == (2, LabelManager(labels, order).num_segmentation_heads) == (2, len(outputs))
    for modality, row in zip(("CT", "MRI"), found.by_modality, strict=True):
        names = sets.get(modality, labels)
        assert labels_in(dataset_json, row) == {
            name: value for name, value in labels_of(dataset_json).items() if name in names
        }
        assert has_regions(dataset_json) or row[0]
    available = torch.tensor([[True, False], [False, True], [True, True]])
    both = found.by_modality.any(dim=0)
    assert torch.equal(covered(available, found.by_modality), torch.stack([*found.by_modality, both]))


ROUNDING = st.floats(-9e-5, 9e-5)


@given(st.lists(st.tuples(st.integers(0, 300), ROUNDING), min_size=1), st.sampled_from([np.float32, np.float64]))
def test_rounding_errors_are_removed_and_other_fractions_refused(voxels, dtype):
    values, errors = np.array(voxels).T
    found = whole_numbers((values + errors).astype(dtype), "a.nii.gz")
    assert found.dtype == dtype and np.array_equal(found, values)
    for fraction in (0.01, 0.5, -0.3):
        with pytest.raises(ModalityError, match=r"a\.nii\.gz"):
            whole_numbers(np.append(found, fraction), "a.nii.gz")


@given(NUMBERED, st.lists(st.integers(-2, 7), min_size=1), st.sampled_from([np.int16, np.float32, np.int64]))
def test_voxels_must_be_labels_of_dataset_json(labels, voxels, dtype):
    segmentation = np.array(voxels, dtype=dtype)
    if unknown := sorted(set(voxels) - set(labels.values())):
        with pytest.raises(ModalityError, match=r"a\.nii\.gz") as error:
            require_known(segmentation, "a.nii.gz", {"labels": labels})
        assert ", ".join(map(str, unknown[:5])) in str(error.value)
    else:
        require_known(segmentation, "a.nii.gz", {"labels": labels})
