"""Labels in dataset.json mean what they mean to nnU-Net, or the key is named that it cannot use."""

import json

import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from facts import facts
from nnunet_moe.commands.plan_and_preprocess.raw_dataset import read_raw_dataset
from nnunet_moe.errors import ModalityError
from nnunet_moe.labels.label_sets import LabelSets, output_names
from nnunet_moe.labels.labels import has_regions, label_values, labels_of, require_trainable_labels, voxel_values


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ({"background": 0, "lesion": 1}, {"lesion": 1}),
        ({"background": "0", "lesion": "1"}, {"lesion": 1}),
        ({"background": 0.0, "edema": 2.0, "core": "1"}, {"edema": 2, "core": 1}),
        ({"lesion": [1], "background": 0}, {"lesion": (1,)}),
        ({"background": 0, "lesion": True, "ignore": 2}, {"lesion": 1}),
    ],
)
def test_labels_are_the_whole_numbers_that_nnunet_takes_them_for(labels, values):
    dataset_json = {"labels": labels}
    require_trainable_labels(dataset_json)
    assert labels_of(dataset_json) == values
    assert all(type(value) in (int, tuple) for value in label_values(dataset_json).values())
    manager = LabelManager(labels, None)
    assert [*manager.all_labels, *([2] if "ignore" in labels else [])] == voxel_values(dataset_json)
    assert len(output_names(dataset_json)) == manager.num_segmentation_heads
    assert not has_regions(dataset_json)


def test_regions_may_be_lists_of_whole_numbers_of_any_type():
    labels = {"background": 0, "whole": [1.0, 2], "core": 2, "ignore": 3}
    dataset_json = {"labels": labels, "regions_class_order": [1, 2]}
    require_trainable_labels(dataset_json)
    assert labels_of(dataset_json) == {"whole": (1, 2), "core": 2}
    assert voxel_values(dataset_json) == [0, 1, 2, 3]
    assert has_regions(dataset_json)
    assert len(LabelManager(labels, [1, 2]).foreground_regions) == 2


WHOLE, CORE = {"background": 0, "whole": [1, 2]}, {"core": 2}
REFUSED = {
    "no background": ({"lesion": 1}, None, ("'background'", 'Add "background": 0')),
    "a capital": ({"Background": 0, "lesion": 1}, None, ("Rename 'Background' to 'background'",)),
    "numbers as keys": ({"0": "background", "1": "lesion"}, None, ("has 'background' for '0'",)),
    "names as keys and values": ({"1": 0, "lesion": 1}, None, ("'background'", "Add")),
    "a list for the background": ({"background": [0], "lesion": [1]}, None, ("[0] for 'background'", "must be 0")),
    "another background": ({"background": 1, "lesion": 0}, None, ("1 for 'background'", "must be 0")),
    "half a label": ({"background": 0, "lesion": 1.5}, None, ("1.5 for 'lesion'", "whole number")),
    "half a label as text": ({"background": 0, "lesion": "1.5"}, None, ("'1.5' for 'lesion'", "whole number")),
    "nothing": ({"background": 0, "lesion": None}, None, ("None for 'lesion'", "whole number")),
    "no end": ({"background": 0, "lesion": float("inf")}, None, ("inf for 'lesion'", "whole number")),
    "an empty region": ({"background": 0, "lesion": []}, None, ("[] for 'lesion'", "whole number")),
    "a list of names": (["background", "lesion"], None, ("'labels'", "['background', 'lesion']", '"background": 0')),
    "only the background": ({"background": 0}, None, ("background", "at least one label")),
    "a gap": ({"background": 0, "a": 1, "b": 3}, None, ("0, 1, 3", "0, 1, 2", "gaps")),
    "a negative label": ({"background": 0, "a": 1, "void": -1}, None, ("-1, 0, 1", "0, 1, 2")),
    "ignore as text": ({"background": 0, "a": 1, "ignore": "2"}, None, ("'2' for 'ignore'", "labels, 2")),
    "ignore in between": ({"background": 0, "ignore": 1, "a": 2}, None, ("1 for 'ignore'", "labels, 3")),
    "regions as texts": (
        {"background": 0, "whole": ["1", "2"], **CORE},
        [1, 2],
        ("['1', '2'] for 'whole'", "regions", "numbers"),
    ),
    "a region as 2.0": ({**WHOLE, "core": 2.0}, [1, 2], ("2.0 for 'core'", "regions")),
    "a background of regions as text": ({**WHOLE, **CORE, "background": "0"}, [1, 2], ("'0' for 'background'",)),
    "no order": ({**WHOLE, **CORE}, None, ("'regions_class_order'", "None", "whole, core")),
    "a short order": ({**WHOLE, **CORE}, [1], ("'regions_class_order'", "[1]", "whole, core")),
    "an order of texts": ({**WHOLE, **CORE}, ["1", "2"], ("'regions_class_order'", "['1', '2']", "whole, core")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_labels_that_nnunet_cannot_use_are_named_with_their_file_and_what_to_do(what, tmp_path, monkeypatch):
    labels, order, said = REFUSED[what]
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    file = tmp_path / "Dataset913_Labels" / "dataset.json"
    file.parent.mkdir()
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    file.write_text(json.dumps({**content, **({} if order is None else {"regions_class_order": order})}))
    with pytest.raises(ModalityError, match=facts(str(file), *said)):
        read_raw_dataset("Dataset913_Labels")


def test_label_sets_read_labels_of_any_type_and_need_one_name_for_each():
    abdomen = {
        "channel_names": {"0": "CT", "1": "MRI"},
        "labels": {"background": "0", "tumor": "2", "liver": 1.0},
        "label_sets": {"CT": ["liver"]},
    }
    sets = LabelSets.of(abdomen)
    assert sets is not None
    assert sets.setting == ((1, 1, 0), (1, 1, 1))  # background, liver, tumor: by value
    with pytest.raises(ModalityError, match=facts("empty name for 3", "label sets")):
        LabelSets.of({**abdomen, "labels": {**abdomen["labels"], "": 3}})
    for value in (1, [1]):
        abdomen["labels"]["tumor"] = value
        with pytest.raises(ModalityError, match=facts("1 for 'tumor' and for 'liver'", "label sets")):
            LabelSets.of(abdomen)
