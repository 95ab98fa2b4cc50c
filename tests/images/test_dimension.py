"""A slice is nothing for a 3D network: one check for all that preprocesses a case."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from facts import facts
from made_plans import DATASET_JSON, made_plans
from nnunet_moe.commands.package.any_format import AnyFormatReader
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.dimension import require_volume
from nnunet_moe.models.inference import InferenceContext
from nnunet_moe.preprocessing import MissingModalityPreprocessor, use_missing_modality_preprocessor

ISOTROPIC, FLAT = (1.0, 1.0, 1.0), (999.0, 1.0, 1.0)
PATCH_3D, PATCH_2D = (32, 32, 32), (32, 32)


@pytest.mark.parametrize(
    ("shape", "spacing", "training", "is_slice"),
    [
        ((1, 9, 8), FLAT, True, True),
        ((1, 9, 8), (999 * 0.5, 0.5, 0.5), True, True),  # as nnU-Net's readers scale it
        ((1, 9, 8), ISOTROPIC, False, True),
        ((9, 1, 8), ISOTROPIC, False, True),
        ((9, 8, 1), (1.0, 1.0, 5.0), False, True),
        ((1, 1, 1), ISOTROPIC, False, True),
        ((1, 9, 8), ISOTROPIC, True, False),  # nnU-Net trains on it, with its own thickness
        ((2, 9, 8), (10.0, 1.0, 1.0), False, False),
        ((9, 9, 8), FLAT, False, False),  # thick slices are no single slice
    ],
)
def test_what_is_a_slice(shape, spacing, training, is_slice):
    require_volume(shape, spacing, PATCH_2D, "x.nii.gz", for_training=training)  # is nothing odd for a 2D network
    if not is_slice:
        require_volume(shape, spacing, PATCH_3D, "x.nii.gz", for_training=training)
        return
    with pytest.raises(ModalityError, match=facts("x.nii.gz", "slice", " x ".join(map(str, shape)), "volume")):
        require_volume(shape, spacing, PATCH_3D, "x.nii.gz", for_training=training)


def context(folder: Path, patch_size: tuple[int, ...]) -> InferenceContext:
    """What predicts a case, with plans of three modalities."""
    plans = made_plans(folder, list(patch_size), {}) | {"image_reader_writer": "SimpleITKIO"}
    plans["foreground_intensity_properties_per_channel"] = {str(channel): {} for channel in range(3)}
    for name in ("data", "seg", "probabilities"):
        plans["configurations"]["small"] |= {
            f"resampling_fn_{name}": "resample_data_or_seg_to_shape",
            f"resampling_fn_{name}_kwargs": {"is_seg": name == "seg", "order": 1, "order_z": 0},
        }
    manager = PlansManager(plans)
    configuration = manager.get_configuration("small")
    use_missing_modality_preprocessor(configuration)
    return InferenceContext(manager, configuration, {**DATASET_JSON, "numTraining": 1})


def write(file: Path, shape: tuple[int, ...]) -> str:
    rng = np.random.default_rng(0)
    sitk.WriteImage(sitk.GetImageFromArray(rng.normal(100, 5, shape).astype(np.float32)), str(file))
    return str(file)


@pytest.mark.parametrize("shape", [(20, 24), (1, 20, 24), (20, 1, 24)])
def test_a_slice_is_refused_by_all_that_preprocess_for_a_3d_network(tmp_path, shape):
    of_model = context(tmp_path / "plans", PATCH_3D)
    managers = of_model.plans, of_model.configuration, of_model.dataset_json
    file = write(tmp_path / "a_0000.nii.gz", shape)
    images = of_model.read([file])
    preprocessor = of_model.preprocessor()
    assert isinstance(preprocessor, MissingModalityPreprocessor)
    with pytest.raises(ModalityError, match=facts(file, "slice")):  # nnU-Net's command, the Python API
        preprocessor.run_case([file], None, *managers)
    with pytest.raises(ModalityError, match=facts(file, "slice")):  # predict
        preprocessor.used_channels(images, file, *managers[1:])
    with pytest.raises(ModalityError, match="slice"):  # arrays
        preprocessor.run_case_npy(images.image, None, dict(images.properties), *managers)
    with pytest.raises(ModalityError, match="slice"):  # evaluate and packages, with models of any trainer
        of_model.preprocess(images.image, images.properties)


def test_a_2d_network_takes_slices_and_training_takes_volumes_of_one_slice(tmp_path):
    flat, thin = (
        write(tmp_path / f"{case}_0000.nii.gz", shape) for case, shape in (("a", (20, 24)), ("b", (1, 20, 24)))
    )
    of_2d = context(tmp_path / "2d", PATCH_2D)
    for file in (flat, thin):
        images = of_2d.read([file])
        assert of_2d.preprocess(images.image, images.properties)[0].shape == (3, 1, 20, 24)
    of_3d = context(tmp_path / "3d", PATCH_3D)
    managers = of_3d.plans, of_3d.configuration, of_3d.dataset_json
    label = tmp_path / "label.nii.gz"
    for file, shape in ((thin, (1, 20, 24)), (flat, (20, 24))):
        sitk.WriteImage(sitk.GetImageFromArray(np.ones(shape, dtype=np.uint8)), str(label))
        save = of_3d.preprocessor().run_case_save
        if file == flat:
            with pytest.raises(ModalityError, match=facts(file, "slice")):
                save(str(tmp_path / "out"), [file], str(label), *managers)
        else:
            save(str(tmp_path / "out"), [file], str(label), *managers)
            assert (tmp_path / "out.b2nd").exists()


@pytest.mark.parametrize("sent", ["x.mha", "x.nii.gz", "x.nrrd"])
def test_a_volume_is_refused_where_only_images_of_two_dimensions_can_be_read(tmp_path, sent):
    """ITK would write only its first slice as PNG."""
    reader = AnyFormatReader(NaturalImage2DIO(), ".png")
    voxels = np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4)
    for shape in ((2, 5, 4), (1, 5, 4), (5, 4)):
        sitk.WriteImage(
            sitk.GetImageFromArray(voxels.reshape(-1)[: np.prod(shape)].reshape(shape)), str(tmp_path / sent)
        )
        if shape == (2, 5, 4):
            with pytest.raises(ModalityError, match=facts(sent, "volume", "4 x 5 x 2", ".png")):
                reader.read_images([str(tmp_path / sent)])
        else:
            read, _ = reader.read_images([str(tmp_path / sent)])
            np.testing.assert_array_equal(read, voxels[None, :1])
