"""`nnunet_moe study`: what its file may say, the jobs that follow from it, and a tiny study that is killed once."""

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from facts import facts
from nnunet_in_process import make_trainer
from nnunet_moe.cli import main
from nnunet_moe.commands.study.command import Request
from nnunet_moe.commands.study.definition import CaseSet, EvaluationOptions, Method, Study, read_study
from nnunet_moe.commands.study.jobs import Job, jobs_of
from nnunet_moe.commands.study.machine import Machine
from nnunet_moe.commands.study.models import trained_methods, write_plans
from nnunet_moe.commands.study.plan import make_plan
from nnunet_moe.commands.study.report import write_report
from nnunet_moe.commands.study.results import StudyResults, read_results, seed_spread
from nnunet_moe.commands.study.run import run_plan
from nnunet_moe.errors import ModelError, SettingsError, StudyError
from nnunet_moe.modalities.codes import all_codes
from nnunet_moe.runtime.locks import hold
from nnunet_moe.runtime.options import add_options, read_request

MOESD, BASELINE, DEDICATED = "nnUNetTrainerMoESD", "nnUNetTrainerModalityDropout", "nnUNetTrainerDedicated"
SMALLEST = {"dataset": 901, "configuration": "3d_tiny", "trainers": [MOESD]}
LENGTH = {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 7}


def written(folder: Path, content: object, name: str = "tiny") -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


@pytest.fixture
def own_plans(dataset):
    """The study's plans are taken away again."""
    yield
    for file in dataset.plans_file.parent.glob("nnUNetPlans_*.json"):
        file.unlink()


# the file


def test_a_file_that_says_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", str(tmp_path / "images"))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "visits.csv").write_text("case,patient\n")
    content = {
        "dataset": "Dataset901_Tiny",
        "configuration": "3d_tiny",
        "plans": "nnUNetResEncUNetMPlans",
        "trainers": [BASELINE, {"trainer": MOESD, "name": "NoReg", "settings": {"alpha": 0}, "seeds": [7]}],
        "folds": [0, 3],
        "seeds": [0, 1],
        "settings": {"num_epochs": 60},
        "baseline": "NoReg",
        "cases": {"real patients": {"images": "$SOMEWHERE", "labels": "labels", "patients": "visits.csv"}},
        "evaluation": {"codes": ["T1w", "T1w+FLAIR"], "disable_tta": True, "min_lesion": 3},
    }
    assert read_study(written(tmp_path, content, "ms.v1")) == Study(
        name="ms.v1",
        dataset="Dataset901_Tiny",
        configuration="3d_tiny",
        methods=(Method(BASELINE, BASELINE, seeds=(0, 1)), Method("NoReg", MOESD, {"alpha": 0}, (7,))),
        plans="nnUNetResEncUNetMPlans",
        folds=(0, 3),
        settings={"num_epochs": 60},
        baseline="NoReg",
        cases={"real patients": CaseSet(tmp_path / "images", tmp_path / "labels", tmp_path / "visits.csv")},
        evaluation=EvaluationOptions(codes=("T1w", "T1w+FLAIR"), disable_tta=True, min_lesion=3),
    )


def test_a_file_that_says_the_least(tmp_path):
    study = read_study(written(tmp_path, SMALLEST))
    assert study == Study("tiny", "901", "3d_tiny", (Method(MOESD, MOESD, seeds=(0,)),), baseline=MOESD)
    assert study.study_plans == "nnUNetPlans_tiny"


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "0.001", ".001", "10e-4"])
def test_a_small_number_is_a_number(tmp_path, text):
    file = written(tmp_path, f"{{dataset: 1, configuration: 2d, trainers: [a], settings: {{alpha: {text}}}}}")
    assert read_study(file).settings == {"alpha": 0.001}


@pytest.mark.parametrize("text", ["-", ".", "1.2.3", "e5", "1e", "-e5", "1_0", "0x1", "00.5"])
def test_what_is_no_number_is_a_text(tmp_path, text):
    file = written(tmp_path, f"{{dataset: {text}, configuration: 2d, trainers: [a]}}".replace(": -,", ": '-',"))
    assert read_study(file).dataset == text


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    study = read_study(written(tmp_path, {**SMALLEST, "cases": {"a": {"images": "~", "labels": "."}}}))
    assert study.cases == {"a": CaseSet(tmp_path, tmp_path)}


def test_a_number_with_a_leading_zero_is_what_it_looks_like(tmp_path):
    text = "{dataset: 010, configuration: 2d, trainers: [a], seeds: [0, 12], evaluation: {codes: [100, 010, 011]}}"
    study = read_study(written(tmp_path, text))
    assert (study.dataset, study.methods[0].seeds) == ("010", (0, 12))
    assert study.evaluation.codes == ("100", "010", "011")


def test_yaml_reads_off_as_false_and_the_study_as_off(tmp_path):
    study = read_study(written(tmp_path, "{dataset: 1, configuration: 2d, trainers: [a], evaluation: {quality: off}}"))
    assert study.evaluation == EvaluationOptions(quality="off")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trainer": MOESD}, ("unknown", "trainer", "dataset", "configuration", "plans", "trainers")),
        ({"trainers": []}, ("trainers", "[]")),
        ({"trainers": [MOESD, MOESD]}, ("Two", "MoESD", "'name'")),
        ({"trainers": [MOESD, {"trainer": BASELINE, "name": "MoESD"}]}, ("Two", "MoESD", "'name'")),
        ({"trainers": [{"name": "b"}]}, ("trainers", "lacks", "trainer")),
        ({"trainers": [{"trainer": MOESD, "name": "a__b"}]}, ("name", "'a__b'", "file names")),
        ({"trainers": [{"trainer": MOESD, "setting": {}}]}, ("trainers", "unknown", "setting")),
        ({"settings": {"alpa": 1}}, ("Unknown", "'alpa'", "num_experts")),
        ({"settings": {"alpha": -1}}, ("'alpha'", "'settings'", "-1", "0 to 1000")),
        (
            {"cases": {"a": {"images": ".", "labels": "$UNSET_HERE/a"}}},
            ("UNSET_HERE/a", "folder", "variable"),
        ),
        ({"settings": {"seed": 1}}, ("seed", "'settings'", "'seeds'")),
        ({"settings": {"modality_code": [1, 0, 0]}}, ("modality_code", "'settings'")),
        ({"settings": [1]}, ("settings", "object")),
        ({"seeds": [0, 0]}, ("seeds", "[0, 0]", "numbers", "once")),
        ({"folds": ["0"]}, ("folds", "['0']", "numbers", "[all]")),
        ({"folds": ["all"]}, ("'all'", "validation", "'cases'")),
        ({"baseline": "other"}, ("baseline", "'other'", MOESD)),
        ({"cases": {"a": {"images": "."}}}, ("cases 'a'", "lacks", "labels")),
        ({"cases": {"a": {"images": ".", "labels": "nowhere"}}}, ("cases 'a'", "nowhere", "folder")),
        ({"cases": {"../a": {"images": ".", "labels": "."}}}, ("cases", "'../a'")),
        ({"evaluation": {"tta": False}}, ("evaluation", "unknown", "tta", "codes", "connectivity")),
        ({"evaluation": {"connectivity": 8}}, ("connectivity", 8, 6, 18, 26)),
        ({"evaluation": {"step_size": 0}}, ("step_size", 0, 1)),
        ({"evaluation": {"quality": "slow"}}, ("quality", "'slow'", "off", "fast", "full")),
        ({"evaluation": {"failure_dsc": 2}}, ("failure_dsc", 2, 1)),
        ({"evaluation": {"failure_dsc": "0,5"}}, ("failure_dsc", "'0,5'", "number")),
        ({"cases": {"validation_cases": {"images": ".", "labels": "."}}}, ("'validation_cases'", "others")),
        (
            {"cases": {"a b": {"images": ".", "labels": "."}, "a_b": {"images": ".", "labels": "."}}},
            ("'a_b'", "others"),
        ),
        ({"configuration": "2d__b"}, ("configuration", "'2d__b'", "file names")),
        ({"trainers": [{"trainer": MOESD, "name": "b_"}]}, ("name", "'b_'", "file names")),
        ({"dataset": None}, ("dataset", "None", "name")),
    ],
)
def test_what_a_file_may_not_say(tmp_path, change, said):
    with pytest.raises(SettingsError, match=facts(*said)):
        read_study(written(tmp_path, {**SMALLEST, **change}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", ("YAML",)),
        ("{seeds: [0], seeds: [1]}", ("YAML", "'seeds'", "twice")),
        ("{? [0]: 1, ? [0]: 2}", ("YAML",)),
        ("just words", ("object", "dataset")),
        ("", ("object", "dataset")),
    ],
)
def test_a_file_of_another_kind(tmp_path, text, said):
    with pytest.raises(SettingsError, match=facts("tiny.yaml", *said)):
        read_study(written(tmp_path, text))
    with pytest.raises(SettingsError, match=facts("none.yaml", "does not exist")):
        read_study(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match=facts("name", "'a b'")):
        read_study(written(tmp_path, SMALLEST, "a b"))


# models, plans and jobs


def test_each_method_seed_and_code_has_a_configuration_of_its_own(dataset, own_plans):
    study = Study(
        "tiny",
        dataset.raw.name,
        "3d_tiny",
        (Method(MOESD, MOESD, seeds=(0, 4)), Method("b", MOESD, {"alpha": 0}), Method(DEDICATED, DEDICATED)),
        settings={"num_epochs": 5},
        baseline=MOESD,
    )
    trained = trained_methods(study, all_codes(3)[:2])
    assert [model.configurations for model in trained] == [
        {f"{MOESD}_seed0": "3d_tiny_seed0"},
        {f"{MOESD}_seed4": "3d_tiny_seed4"},
        {"b_seed0": "3d_tiny_b_seed0"},
        {f"{DEDICATED}_seed0_100": "3d_tiny_seed0_100", f"{DEDICATED}_seed0_010": "3d_tiny_seed0_010"},
    ]
    before = dataset.plans_file.read_bytes()
    plans = json.loads(write_plans(study, trained).read_text())
    assert dataset.plans_file.read_bytes() == before, "the user's plans are not touched"
    base = json.loads(before)
    assert plans.pop("plans_name") == "nnUNetPlans_tiny" and base.pop("plans_name") == "nnUNetPlans"
    new = set(plans["configurations"]) - set(base["configurations"])
    own = {name: plans["configurations"].pop(name) for name in new}
    assert plans == base
    settings = {**base["configurations"]["3d_tiny"]["nnunet_moe"], "num_epochs": 5}
    assert own == {
        "3d_tiny_seed0": {"inherits_from": "3d_tiny", "nnunet_moe": {**settings, "seed": 0}},
        "3d_tiny_seed4": {"inherits_from": "3d_tiny", "nnunet_moe": {**settings, "seed": 4}},
        "3d_tiny_b_seed0": {"inherits_from": "3d_tiny", "nnunet_moe": {**settings, "alpha": 0, "seed": 0}},
        "3d_tiny_seed0_100": {
            "inherits_from": "3d_tiny_seed0",
            "nnunet_moe": {**settings, "seed": 0, "modality_code": [1, 0, 0]},
        },
        "3d_tiny_seed0_010": {
            "inherits_from": "3d_tiny_seed0",
            "nnunet_moe": {**settings, "seed": 0, "modality_code": [0, 1, 0]},
        },
    }


def test_a_study_may_grow_but_not_change(dataset, own_plans):
    def write(**change):
        least = {"configuration": "3d_tiny", "methods": (Method(MOESD, MOESD),)}
        study = Study("tiny", dataset.raw.name, **{**least, **change})
        return json.loads(write_plans(study, trained_methods(study, all_codes(3))).read_text())

    write()
    grown = write(methods=(Method(MOESD, MOESD, seeds=(1, 2)), Method("b", MOESD, {"beta": 0.5})))
    assert {"3d_tiny_seed0", "3d_tiny_seed1", "3d_tiny_seed2", "3d_tiny_b_seed0"} <= set(grown["configurations"])
    with pytest.raises(SettingsError, match=facts("other plans", "3d_tiny_seed0")):
        write(settings={"num_epochs": 3})
    with pytest.raises(SettingsError, match=facts("another", "'3d_fullres_seed0'")):
        plans = json.loads(dataset.plans_file.read_text())
        plans["configurations"]["3d_fullres_seed0"] = {"inherits_from": "3d_fullres"}
        dataset.plans_file.with_name("nnUNetPlans_other.json").write_text(json.dumps(plans))
        write(plans="nnUNetPlans_other", configuration="3d_fullres")
    with pytest.raises(SettingsError, match=facts("'3d_none'", "2d", "3d_fullres")):
        write(configuration="3d_none")
    with pytest.raises(SettingsError, match=facts("nnUNetTrainerM4oEMAE", "pre-training")):
        write(methods=(Method("phase one", "nnUNetTrainerM4oEMAE"),))
    for teacher in ({}, {"teacher": "PET"}):
        with pytest.raises(
            SettingsError, match=facts("nnUNetTrainerLCKDFixedTeacher", "'teacher'", "T1w", "T2w", "FLAIR")
        ):
            write(methods=(Method("fixed", "nnUNetTrainerLCKDFixedTeacher", teacher),))


def test_two_methods_are_the_same_by_what_the_plans_and_the_trainer_make_of_them(dataset, own_plans):
    def write(**settings):
        methods = (Method(MOESD, MOESD), Method("b", MOESD, {"alpha": 0.1}))  # which is the default
        study = Study("tiny", dataset.raw.name, "3d_tiny", methods, settings=settings)
        return write_plans(study, trained_methods(study, all_codes(3)))

    with pytest.raises(SettingsError, match=facts(MOESD, "b", "same trainer", "same settings")):
        write()
    before = dataset.plans_file.read_text()
    plans = json.loads(before)
    plans["configurations"]["3d_tiny"]["nnunet_moe"]["alpha"] = 0.05
    dataset.plans_file.write_text(json.dumps(plans))
    try:
        assert write().exists()
    finally:
        dataset.plans_file.write_text(before)


def test_settings_without_effect_are_refused_in_methods_that_the_study_has_not_begun(dataset, own_plans):
    dropout = "nnUNetTrainerModalityDropout"
    a, b = (Method(name, dropout, {"temperature": value}) for name, value in (("a", 0.5), ("b", 0.7)))

    def write(*methods):
        study = Study("tiny", dataset.raw.name, "3d_tiny", methods)
        return json.loads(write_plans(study, trained_methods(study, all_codes(3))).read_text())

    with pytest.raises(SettingsError, match=facts("nnUNetTrainerMoE", "beta", "out of b")):
        write(Method("b", "nnUNetTrainerMoE", {"beta": 3}))
    with pytest.raises(SettingsError, match=facts(dropout, "temperature", "out of a")):
        write(a)

    # as a version wrote it whose trainers read all settings
    begun = write(Method("c", MOESD, a.settings), Method("d", MOESD, b.settings))
    for old, new in (("c", "a"), ("d", "b")):
        begun["configurations"][f"3d_tiny_{new}_seed0"] = begun["configurations"].pop(f"3d_tiny_{old}_seed0")
    dataset.plans_file.with_name("nnUNetPlans_tiny.json").write_text(json.dumps(begun))
    assert write(a, b) == begun
    with pytest.raises(SettingsError, match=facts("temperature", "out of a")):
        write(replace(a, seeds=(0, 1)), b)
    for methods in ((a, b, Method("new", dropout)), (Method("new", dropout), a, b)):
        with pytest.raises(SettingsError, match=facts("a", "new", "same trainer", "same settings")):
            write(*methods)
    assert write(a, b) == begun


def test_label_sets_that_a_trainer_took_from_dataset_json_are_no_other_settings(
    dataset, own_plans, tmp_path, monkeypatch
):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    study = Study("tiny", dataset.raw.name, "3d_tiny", (Method(MOESD, MOESD),))
    plans = json.loads(write_plans(study, trained_methods(study, all_codes(3))).read_text())
    folder = tmp_path / dataset.raw.name / f"{MOESD}__nnUNetPlans_tiny__3d_tiny_seed0"
    folder.mkdir(parents=True)
    file = dataset.plans_file.with_name("dataset.json")
    before = file.read_text()
    try:
        file.write_text(json.dumps({**json.loads(before), "label_sets": {"FLAIR": ["lesion"]}}))
        for rows, is_same in (([[1, 1]] * 3, True), ([[1, 0], [1, 1], [1, 1]], False)):
            plans["configurations"]["3d_tiny_seed0"]["nnunet_moe"]["label_sets"] = rows
            (folder / "plans.json").write_text(json.dumps(plans))
            if is_same:
                assert write_plans(study, trained_methods(study, all_codes(3))).exists()
            else:
                with pytest.raises(SettingsError, match=facts(folder.name, "trained", "other settings")):
                    write_plans(study, trained_methods(study, all_codes(3)))
    finally:
        file.write_text(before)


def test_a_model_that_was_trained_otherwise_is_not_taken(dataset, own_plans, tmp_path, monkeypatch):
    """Also where the study's plans are gone, which would tell."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    study = Study("tiny", dataset.raw.name, "3d_tiny", (Method(MOESD, MOESD),))
    plans = write_plans(study, trained_methods(study, all_codes(3)))
    folder = tmp_path / dataset.raw.name / f"{MOESD}__nnUNetPlans_tiny__3d_tiny_seed0"
    folder.mkdir(parents=True)
    plans.rename(folder / "plans.json")
    write_plans(study, trained_methods(study, all_codes(3))).unlink()
    changed = replace(study, settings={"alpha": 0.5})
    with pytest.raises(SettingsError, match=facts(folder.name, "trained", "other settings")):
        write_plans(changed, trained_methods(changed, all_codes(3)))
    assert not plans.exists()


def test_the_splits_are_those_that_nnunet_writes(dataset, own_plans):
    splits = dataset.plans_file.with_name("splits_final.json")
    splits.unlink(missing_ok=True)
    study = Study("tiny", dataset.raw.name, "3d_tiny", (Method(MOESD, MOESD),))
    write_plans(study, trained_methods(study, all_codes(3)))
    ours = splits.read_text()
    splits.unlink()
    make_trainer(901, "3d_tiny", MOESD).do_split()
    assert splits.read_text() == ours


def test_trainers_that_are_not_ours_or_not_there(dataset):
    def trained(method):
        return trained_methods(Study("tiny", dataset.raw.name, "3d_tiny", (method,)), all_codes(3))

    (stock,) = trained(Method("nnUNetTrainer", "nnUNetTrainer"))
    assert stock.configurations == {"nnUNetTrainer_seed0": "3d_tiny"}
    for change in ({"seeds": (0, 1)}, {"settings": {"alpha": 0}}):
        with pytest.raises(SettingsError, match=facts("nnUNetTrainer", "settings", "seed")):
            trained(Method("nnUNetTrainer", "nnUNetTrainer", **change))
    with pytest.raises(ModelError, match=facts("'nnUNetTrainerNone'")):
        trained(Method("nnUNetTrainerNone", "nnUNetTrainerNone"))


def test_every_job_is_an_ordinary_command(dataset, tmp_path):
    study = Study(
        "tiny",
        dataset.raw.name,
        "3d_tiny",
        (Method("b", MOESD, {"alpha": 0}), Method(DEDICATED, DEDICATED)),
        folds=(0, 1),
        cases={"real patients": CaseSet(tmp_path / "i", tmp_path / "l", tmp_path / "t")},
        evaluation=EvaluationOptions(codes=("T1w", "FLAIR"), disable_tta=True, tolerance=2.0, quality="full"),
    )
    trained = trained_methods(study, all_codes(3)[:2])
    jobs = jobs_of(study, trained, tmp_path / "tiny.yaml", "cuda", preprocess=True)
    assert {name: " ".join(job.command) for name, job in jobs.items() if "fold1" in name or "b_" in name} == {
        "train/b_seed0_fold0": f"nnUNetv2_train Dataset901_Tiny 3d_tiny_b_seed0 0 -tr {MOESD} -p nnUNetPlans_tiny "
        "-device cuda --c",
        "train/b_seed0_fold1": f"nnUNetv2_train Dataset901_Tiny 3d_tiny_b_seed0 1 -tr {MOESD} -p nnUNetPlans_tiny "
        "-device cuda --c",
        "evaluate/b_seed0__validation_cases": f"nnunet_moe evaluate -d Dataset901_Tiny -c 3d_tiny_b_seed0 -tr {MOESD} "
        "-p nnUNetPlans_tiny -f 0 1 -o evaluations/validation_cases/b_seed0 -device cuda -codes T1w FLAIR "
        "-tolerance 2.0 --disable_tta --quality full",
        "evaluate/b_seed0__real_patients": f"nnunet_moe evaluate -d Dataset901_Tiny -c 3d_tiny_b_seed0 -tr {MOESD} "
        "-p nnUNetPlans_tiny -f 0 1 -o evaluations/real_patients/b_seed0 -device cuda "
        f"-i {tmp_path}/i -l {tmp_path}/l -patients {tmp_path}/t -codes T1w FLAIR -tolerance 2.0 --disable_tta "
        "--quality full",
        f"train/{DEDICATED}_seed0_100_fold1": f"nnUNetv2_train Dataset901_Tiny 3d_tiny_seed0_100 1 -tr {DEDICATED} "
        "-p nnUNetPlans_tiny -device cuda --c",
        f"train/{DEDICATED}_seed0_010_fold1": f"nnUNetv2_train Dataset901_Tiny 3d_tiny_seed0_010 1 -tr {DEDICATED} "
        "-p nnUNetPlans_tiny -device cuda --c",
    }
    assert jobs["preprocess/preprocess"].command[:2] == ("nnunet_moe", "plan_and_preprocess")
    assert jobs["plans/plans"].needs == ("preprocess/preprocess",)
    assert jobs["evaluate/b_seed0__real_patients"].needs == ("train/b_seed0_fold0", "train/b_seed0_fold1")
    assert len(jobs[f"evaluate/{DEDICATED}_seed0__real_patients"].needs) == 4


def test_jobs_keep_the_order_of_the_file_seed_by_seed_and_evaluate_each_model_after_its_trainings(dataset, tmp_path):
    methods = (
        Method("b", MOESD, {"alpha": 0}, seeds=(3, 1, 2)),
        Method(DEDICATED, DEDICATED, seeds=(5,)),
        Method("nnUNetTrainer", "nnUNetTrainer"),
        Method("a", MOESD, seeds=(0, 3)),
    )
    study = Study("tiny", dataset.raw.name, "3d_tiny", methods, folds=(1, 0), cases={"x": CaseSet(tmp_path, tmp_path)})
    trained = trained_methods(study, [code for code in all_codes(3) if code[0]][-2:])
    jobs = jobs_of(study, trained, tmp_path / "tiny.yaml", "cpu", preprocess=True)
    assert list(jobs) == [
        "preprocess/preprocess",
        "plans/plans",
        *("train/b_seed3_fold1", "train/b_seed3_fold0", "evaluate/b_seed3__validation_cases", "evaluate/b_seed3__x"),
        *(f"train/{DEDICATED}_seed5_{code}_fold{fold}" for code in ("101", "111") for fold in (1, 0)),
        *(f"evaluate/{DEDICATED}_seed5__validation_cases", f"evaluate/{DEDICATED}_seed5__x"),
        *("train/nnUNetTrainer_seed0_fold1", "train/nnUNetTrainer_seed0_fold0"),
        *("evaluate/nnUNetTrainer_seed0__validation_cases", "evaluate/nnUNetTrainer_seed0__x"),
        *("train/a_seed0_fold1", "train/a_seed0_fold0", "evaluate/a_seed0__validation_cases", "evaluate/a_seed0__x"),
        *("train/b_seed1_fold1", "train/b_seed1_fold0", "evaluate/b_seed1__validation_cases", "evaluate/b_seed1__x"),
        *("train/a_seed3_fold1", "train/a_seed3_fold0", "evaluate/a_seed3__validation_cases", "evaluate/a_seed3__x"),
        *("train/b_seed2_fold1", "train/b_seed2_fold0", "evaluate/b_seed2__validation_cases", "evaluate/b_seed2__x"),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_no_job_comes_before_a_job_that_it_needs(dataset, tmp_path, seed):
    draw = np.random.default_rng(seed)
    seeds = tuple(map(int, draw.permutation(4)[: 1 + seed % 4]))
    trainers = draw.choice([MOESD, DEDICATED], 1 + seed % 3)
    rows = enumerate(map(str, trainers))
    methods = tuple(Method(f"m{row}", trainer, seeds=(*seeds[row:], 9)) for row, trainer in rows)
    study = Study("tiny", dataset.raw.name, "3d_tiny", methods, folds=tuple(map(int, draw.permutation(5)[:2])))
    jobs = jobs_of(study, trained_methods(study, all_codes(3)[4:]), tmp_path, "cpu", preprocess=bool(seed % 2))
    names = list(jobs)
    assert all(names.index(need) < names.index(name) for name, job in jobs.items() for need in job.needs)
    trained = {need for job in jobs.values() for need in job.needs} - {"plans/plans", "preprocess/preprocess"}
    assert trained == {name for name in names if name.startswith("train/")}, "every training is needed"


# running


def test_the_plan_tells_the_jobs_and_from_the_first_one_the_time(dataset, tmp_path):
    plan = make_plan(written(tmp_path, {**SMALLEST, "seeds": [0, 1, 2, 3]}), tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
    assert plan.describe(2).splitlines()[1:] == [
        "  plans         0 of 1 done",
        "  train         0 of 4 done",
        "  evaluate      0 of 4 done",
        "  9 of 9 jobs are left, 2 at a time.",
        "  The time for train and evaluate is known once the first such job is done.",
    ]
    (plan.out / "evaluations" / "validation_cases" / f"{MOESD}_seed0").mkdir(parents=True)
    (plan.out / "evaluations" / "validation_cases" / f"{MOESD}_seed0" / "report.html").touch()
    for name in (f"train/{MOESD}_seed0_fold0", f"evaluate/{MOESD}_seed0__validation_cases"):
        for path, content in (
            (plan.marker(name), ""),
            (plan.out / "times" / f"{name}.tsv", "s\th:m:s\n600.0\t0:10:00\n"),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    assert plan.describe(2).splitlines()[-3:] == [
        "  evaluate      1 of 4 done, 10 min each",
        "  7 of 9 jobs are left, 2 at a time.",
        "  About 40 min to go.",  # two trainings; their evaluations; the last training; its evaluation
    ]
    running = {name: 300.0 for name in (f"train/{MOESD}_seed1_fold0", f"train/{MOESD}_seed2_fold0")}
    assert plan.time_left(2, plan.done(), running) == ["About 35 min to go."]
    assert plan.time_left(None, plan.done(), running) == ["About 50 min of computing time in total."]


def test_the_codes_are_those_of_the_training_cases_and_of_the_folders(dataset, tmp_path):
    """A folder of cases adds codes that no training case has, and an evaluation for each model."""
    raw = dataset.workspace.raw / "Dataset931_Folders"
    images, labels, *_ = folders = [raw / "imagesTr", raw / "labelsTr", tmp_path / "images", tmp_path / "labels"]
    for folder in folders:
        folder.mkdir(parents=True)
    for image in (images / "a_0000", images / "a_0001", tmp_path / "images" / "b_0002"):  # a: T1w, FLAIR; b: T2w
        image.with_suffix(".nii.gz").touch()
    for label in (labels / "a.nii.gz", tmp_path / "labels" / "b.nii.gz"):
        label.touch()
    shutil.copy(dataset.dataset_json_file, raw)
    given = {"dataset": 931, "trainers": [MOESD], "configuration": "3d_fullres"}
    of_folder = {"cases": {"held out": {"images": "images", "labels": "labels"}}}
    try:
        plain = make_plan(written(tmp_path, given), tmp_path / "out", "cpu")
        plan = make_plan(written(tmp_path, {**given, **of_folder}), tmp_path / "out", "cpu")
    finally:
        shutil.rmtree(raw)
    assert set(plain.codes) == {(1, 0, 0), (0, 1, 0), (1, 1, 0)}
    assert set(plan.codes) == {(1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1)}
    assert plan.jobs.keys() - plain.jobs.keys() == {f"evaluate/{MOESD}_seed0__held_out"}


def test_what_is_not_preprocessed(dataset, tmp_path):
    """Plans that there are stay; without any, or where the study has begun to, it plans and preprocesses itself."""
    file, out, plans = written(tmp_path, SMALLEST), tmp_path / "out", dataset.plans_file
    pickled = plans.parent / "nnUNetPlans_3d_fullres" / "phantomTr000.pkl"
    hidden = pickled.rename(tmp_path / "hidden.pkl")
    try:
        with pytest.raises(SettingsError, match=facts("1 of 5", "preprocessed", "phantomTr000")):
            make_plan(file, out, "cpu")
        with pytest.raises(SettingsError, match=facts("nnUNetOtherPlans.json", "does not exist")):
            make_plan(written(tmp_path, {**SMALLEST, "plans": "nnUNetOtherPlans"}, "other"), out, "cpu")
        plans.rename(tmp_path / "plans.json")
        with pytest.raises(SettingsError, match=facts("planned", "'3d_tiny'", "2d")):
            make_plan(file, out, "cpu")
        jobs = make_plan(written(tmp_path, {**SMALLEST, "configuration": "2d"}, "two"), out, "cpu").jobs
        assert jobs["preprocess/preprocess"].command[:2] == ("nnunet_moe", "plan_and_preprocess")
        (tmp_path / "plans.json").rename(plans)
        out.mkdir()
        (out / "jobs.json").write_text(json.dumps({"jobs": {"preprocess/preprocess": {}}}))
        assert "preprocess/preprocess" in make_plan(file, out, "cpu").jobs
    finally:
        hidden.rename(pickled)
    (out / "done" / "preprocess").mkdir(parents=True)
    (out / "done" / "preprocess" / "preprocess").touch()
    assert "preprocess/preprocess" not in make_plan(file, out, "cpu").jobs


def test_a_tiny_study_from_start_to_end_killed_once(
    dataset, own_plans, preloaded_python, monkeypatch, tmp_path, capsys
):
    trainers = [{"trainer": MOESD, "name": "long", "settings": {"num_epochs": 8}}]
    settings = {"num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
    evaluation = {"codes": ["FLAIR"], "disable_tta": True}
    file = written(tmp_path, {**SMALLEST, "trainers": trainers, "settings": settings, "evaluation": evaluation})
    out = tmp_path / "out"
    model = dataset.workspace.results / dataset.raw.name / f"{MOESD}__nnUNetPlans_tiny__3d_tiny_long_seed0" / "fold_0"
    command = ["study", str(file), "-o", str(out), "-device", "cpu"]
    # a process of its own, below which all others are; they run the commands beside this Python
    script = (
        f"import sys; from nnunet_moe.cli import main; sys.executable = {str(preloaded_python)!r}; main(sys.argv[1:])"
    )
    study = psutil.Popen([sys.executable, "-c", script, *command], stdout=subprocess.DEVNULL)
    while not (model / "checkpoint_best.pth").exists() and study.poll() is None:
        time.sleep(0.02)
    assert study.poll() is None, (out / "snakemake.log").read_text()
    for process in [study, *study.children(recursive=True)]:
        process.kill()
    study.wait()
    (first_log,) = model.glob("training_log_*.txt")
    assert 7 not in epochs_in(first_log) and not (out / "report.html").exists()

    monkeypatch.setattr(sys, "executable", str(preloaded_python))
    main(command)
    shown = capsys.readouterr().out
    assert "Study tiny of Dataset901_Tiny" in shown and "All jobs are done." in shown
    assert f"Report: {out / 'report.html'}" in shown
    (second_log,) = set(model.glob("training_log_*.txt")) - {first_log}
    assert epochs_in(second_log)[0] > 0 and epochs_in(second_log)[-1] == 7, "it went on"
    page = (out / "report.html").read_text()
    assert all(title in page for title in ("validation cases: lesion", "Learning curves", "Gates"))
    header, *_ = (out / "report" / "validation_cases" / "lesion_codes.md").read_text().splitlines()[2:]
    assert header == "| T1w | T2w | FLAIR | Cases | DSC long | CScore long |"

    done = {path: path.stat().st_mtime_ns for path in out.glob("done/*/*") if path.parent.name in ("train", "evaluate")}
    assert len(done) == 2
    main(command)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what is done stays"


def epochs_in(log: Path) -> list[int]:
    return [int(number) for number in re.findall(r": Epoch (\d+) *$", log.read_text(), re.MULTILINE)]


def test_a_job_that_fails_is_told_and_the_others_go_on(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    log = out / "logs" / "train" / "a.log"
    jobs = {
        "train/a": Job(("sh", "-c", "echo No space left; kill -9 $$")),
        "train/b": Job(("sh", "-c", "echo 'b {x} $y' > b.txt")),
        "evaluate/a": Job(("true",), ("train/a",)),
        "evaluate/b": Job(("true",), ("train/b",)),
    }
    plan = replace(make_plan(written(tmp_path, SMALLEST), out, "cpu"), jobs=jobs)
    with pytest.raises(
        StudyError,
        match=facts(
            "1 jobs failed", "2 are not done", "train/a: No space left", f"exit status {128 + 9}", "snakemake.log"
        ),
    ):
        run_plan(plan, Machine("cpu"))
    assert "evaluate/b done" in capsys.readouterr().out
    assert (out / "b.txt").read_text() == "b {x} $y\n", "commands are what they are"
    (out / "b.txt").unlink()
    jobs["train/a"] = Job(("true",))
    run_plan(plan, Machine("cpu"))
    assert "No space left" in log.read_text() and "+ true" in log.read_text(), "the log of what failed is kept"
    assert plan.done() == set(jobs) and not (out / "b.txt").exists()
    jobs["train/b"] = Job(("touch", "b.txt"))
    assert plan.done() == {"train/a", "evaluate/a"}, "what needs a job that has changed is not done either"
    run_plan(plan, Machine("cpu"))
    assert (out / "b.txt").exists(), "a job that has changed is done again"
    (out / "b.txt").unlink()
    run_plan(replace(plan, jobs={"train/a": jobs["train/a"]}), Machine("cpu"))
    jobs["train/b"] = Job(("touch", "c.txt"))
    run_plan(plan, Machine("cpu"))
    assert (out / "c.txt").exists(), "also when it was left out in between"


def test_on_another_device_what_is_done_stays(dataset, tmp_path):
    plan = make_plan(written(tmp_path, SMALLEST), tmp_path / "out", "cpu")
    commands = {device: ("true", "-device", device, "--c") for device in ("cpu", "cuda")}
    on = {device: replace(plan, jobs={"train/a": Job(command)}) for device, command in commands.items()}
    run_plan(on["cpu"], Machine("cpu"))
    before = plan.marker("train/a").stat().st_mtime_ns
    run_plan(on["cuda"], Machine("cpu"))
    assert plan.marker("train/a").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("send", "to_all", "trap"),
    [(signal.SIGTERM, False, ""), (signal.SIGHUP, False, ""), (signal.SIGINT, True, "INT")],
)
def test_a_study_that_is_stopped_stops_its_jobs(dataset, tmp_path, send, to_all, trap):
    """SIGTERM to the command alone; SIGINT to its group, as a terminal sends it, again where a job does not heed it."""
    out = tmp_path / "out"
    script = (
        "import sys; from pathlib import Path; from dataclasses import replace; "
        "from nnunet_moe.commands.study.plan import make_plan; from nnunet_moe.commands.study.jobs import Job; "
        "from nnunet_moe.commands.study.machine import Machine; from nnunet_moe.commands.study.run import run_plan; "
        f"plan = make_plan(Path({str(written(tmp_path, SMALLEST))!r}), Path({str(out)!r}), 'cpu'); "
        f"job = Job(('sh', '-c', 'trap \"\" {trap or 'USR1'}; sleep 600; touch ended')); "
        "run_plan(replace(plan, jobs={'train/a': job}), Machine('cpu'))"
    )
    study = psutil.Popen([sys.executable, "-c", script], start_new_session=True, stderr=subprocess.DEVNULL)
    jobs = []
    while "sleep" not in [process.info["name"] for process in jobs]:
        assert study.poll() is None
        time.sleep(0.05)
        below = {process.pid for process in study.children(recursive=True)}
        jobs = [process for process in psutil.process_iter(["name"]) if process.pid in below]
    os.killpg(study.pid, send) if to_all else study.send_signal(send)
    if trap:
        assert psutil.wait_procs([study], timeout=2)[1], "it waits for its jobs"
        os.killpg(study.pid, send)
    study.wait(10)
    assert not psutil.wait_procs(jobs, timeout=10)[1] and not (out / "ended").exists()


def test_the_devices_and_the_number_of_jobs(monkeypatch, tmp_path):
    assert (Machine("cpu").jobs_at_a_time, Machine("cpu").devices) == (1, [])
    assert Machine("cpu", 3).options()[-2:] == ["--resources", "devices=3"]
    assert Machine("cpu", 2).threads == max(1, len(os.sched_getaffinity(0)) // 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert (Machine("cpu", 2).threads, Machine("cpu", profile="slurm").threads) == (5, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-a")
    assert (Machine("cuda").jobs_at_a_time, Machine("cuda").devices) == (2, ["2", "GPU-a"])
    assert Machine("cuda", 3).devices == ["2", "GPU-a", "2"]
    cluster = Machine("cuda", profile="slurm")
    assert (cluster.jobs_at_a_time, cluster.devices) == (None, [])
    profile = Path(cluster.options()[1])
    assert yaml.safe_load((profile / "config.yaml").read_text())["executor"] == "slurm"
    assert Machine("cuda", profile=str(tmp_path)).options() == ["--profile", str(tmp_path)]


def test_the_gpus_of_a_study(monkeypatch):
    def request(*options):
        parser = argparse.ArgumentParser()
        add_options(parser, Request)
        return read_request(Request, parser.parse_args(["study.yaml", "-o", "out", *options]))

    assert request("-device", "cuda").gpus == ()
    assert request("-device", "cuda", "-gpus", "3, 1").gpus == (3, 1)
    for given, said in (
        (("-gpus", "0,1", "-device", "cpu"), ("-gpus", "-device", "cpu", "cuda")),
        (("-gpus", "0,1", "--profile", "slurm"), ("-gpus", "--profile")),
        (("-device", "cuda", "-gpus", "0,1,01"), ("-gpus", "0,1,01", "1 twice", "-jobs")),
        *((("-device", "cuda", "-gpus", text), ("-gpus", text, "whole numbers")) for text in ("", "0,", "a", "1.0")),
    ):
        with pytest.raises(SettingsError, match=facts(*said)):
            request(*given)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3,4")
    machine = Machine("cuda", gpus=(3, 1))
    machine.require_gpus()
    assert (machine.jobs_at_a_time, machine.devices) == (2, ["3", "1"])
    assert Machine("cuda", 3, gpus=(3, 1)).devices == ["3", "1", "3"]
    with pytest.raises(SettingsError, match=facts("-gpus", 5, "CUDA_VISIBLE_DEVICES", "1, 3, 4")):
        Machine("cuda", gpus=(3, 5)).require_gpus()


def noting(job: Job, name: str, work: str = "true") -> Job:
    """A job with the same needs that notes its name and its GPU, works, and leaves what an evaluation leaves."""
    folder = job.command[job.command.index("-o") + 1] if name.startswith("evaluate/") else "."
    leave = f"mkdir -p {folder}; touch {folder}/report.html"
    return replace(job, command=("sh", "-c", f"echo {name} $CUDA_VISIBLE_DEVICES >> noted; {work}; {leave}"))


def test_a_study_that_an_earlier_version_began_goes_on_in_the_order_of_its_file(dataset, tmp_path, capsys):
    content = {**SMALLEST, "trainers": [{"trainer": MOESD, "name": "z"}, BASELINE], "seeds": [0, 1]}
    made = make_plan(written(tmp_path, content), tmp_path / "out", "cpu")
    plan = replace(made, jobs={name: noting(job, name) for name, job in made.jobs.items()})
    done = ["train/z_seed1_fold0", f"train/{BASELINE}_seed0_fold0", f"evaluate/{BASELINE}_seed0__validation_cases"]
    for file in (*map(plan.marker, done), plan.out / "evaluations/validation_cases" / f"{BASELINE}_seed0/report.html"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    commands = {name: {"command": job.command, "needs": job.needs} for name, job in plan.jobs.items()}
    (plan.out / "jobs.json").write_text(json.dumps({"jobs": commands, "earlier": {}, "devices": [], "threads": 1}))
    run_plan(plan, Machine("cpu"))
    left = [
        "plans/plans",
        *("train/z_seed0_fold0", "evaluate/z_seed0__validation_cases"),
        "evaluate/z_seed1__validation_cases",
        *(f"train/{BASELINE}_seed1_fold0", f"evaluate/{BASELINE}_seed1__validation_cases"),
    ]
    assert (plan.out / "noted").read_text().splitlines() == left
    assert plan.done() == set(plan.jobs)
    told = [line for line in capsys.readouterr().out.splitlines() if " done." in line and line.startswith("[")]
    assert [line.split()[3] for line in told] == left
    assert told[-1] == f"[9 of 9] {left[-1]} done. All jobs are done."
    assert all(re.search(r"About \d+ s to go", line) for line in told[1:-1])


def test_jobs_at_the_same_time_have_one_gpu_each_and_begin_with_the_first(dataset, tmp_path, monkeypatch):
    """The first two trainings wait for each other, so they run at once."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    content = {**SMALLEST, "trainers": [{"trainer": MOESD, "name": "z"}, BASELINE, DEDICATED]}
    content["evaluation"] = {"codes": ["T1w", "T1w+T2w"]}
    made = make_plan(written(tmp_path, content), tmp_path / "out", "cuda")
    first = ["train/z_seed0_fold0", f"train/{BASELINE}_seed0_fold0"]
    waits = {
        name: f"touch {Path(name).name}; for i in $(seq 600); do [ -e {Path(other).name} ] && break; sleep 0.1; done"
        for name, other in zip(first, first[::-1], strict=True)
    }
    plan = replace(made, jobs={name: noting(job, name, waits.get(name, "true")) for name, job in made.jobs.items()})
    run_plan(plan, Machine("cuda", gpus=(3, 5)))
    noted = [line.split() for line in (plan.out / "noted").read_text().splitlines()]
    assert noted[0] == ["plans/plans", "5,3"], "only trainings and evaluations get a GPU"
    assert {name for name, _ in noted} == set(plan.jobs)
    assert {name for name, _ in noted[1:3]} == set(first)
    assert {gpu for _, gpu in noted[1:3]} == {"3", "5"} and {gpu for _, gpu in noted[1:]} == {"3", "5"}


def test_a_profile_for_other_work_is_none_for_a_study(dataset, tmp_path, monkeypatch):
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text("dry-run: true\n")
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(tmp_path / "profile"))
    made = make_plan(written(tmp_path, SMALLEST), tmp_path / "out", "cpu")
    plan = replace(made, jobs={"train/a": Job(("touch", "a"))})
    with pytest.raises(StudyError, match=facts("0 jobs failed", "1 are not done", "dry-run")):
        run_plan(plan, Machine("cpu", more=("--dry-run",)))
    run_plan(plan, Machine("cpu"))
    assert (tmp_path / "out" / "a").exists()


def test_a_study_runs_once_at_a_time(dataset, tmp_path):
    made = make_plan(written(tmp_path, SMALLEST), tmp_path / "out", "cpu")
    plan = replace(made, jobs={"train/a": Job(("true",))})
    run_plan(plan, Machine("cpu"))
    lock = hold(tmp_path / "out" / "running.lock")
    with pytest.raises(StudyError, match=facts("Another run")):
        run_plan(plan, Machine("cpu"))
    os.close(lock)
    run_plan(plan, Machine("cpu"))


def test_folders_and_runs_that_a_study_refuses(dataset, tmp_path):
    (tmp_path / "none").mkdir()
    file, out = written(tmp_path, SMALLEST), tmp_path / "out"
    arguments = ["study", str(file), "-o", str(out), "-device", "cpu"]
    out.mkdir()
    (out / "something").touch()
    for dry in ((), ("-n",)):
        with pytest.raises(SystemExit, match=facts(out, "not empty", "-o")):
            main([*arguments, *dry])
    with pytest.raises(SystemExit, match=facts("--profile", "none", "slurm")):
        shutil.rmtree(out)
        main([*arguments, "--profile", "none"])
    with pytest.raises(SystemExit, match=facts("-jobs", 0, 1)):
        main([*arguments, "-jobs", "0"])
    for change, said in (
        ({"folds": [0, 5]}, ("Dataset901_Tiny", "fold 5", "0 to 4")),
        (
            {"cases": {"a": {"images": ".", "labels": "."}}},
            ("No case", f"a label in {tmp_path / 'none'}", "CASE_XXXX.nii.gz"),
        ),
    ):
        with pytest.raises(SystemExit, match=facts(*said)):
            main(["study", str(written(tmp_path / "none", {**SMALLEST, **change})), "-o", str(out), "-n"])
    with pytest.raises(SystemExit, match=facts("-d 999", "dataset")):
        main(["study", str(written(tmp_path, {**SMALLEST, "dataset": 999})), "-o", str(out)])


# locks


def test_a_jobs_lock_is_free_when_the_last_of_its_processes_has_ended(tmp_path):
    """The first command ends at once but leaves a process that has inherited the lock."""
    log, fifo = tmp_path / "log", tmp_path / "fifo"
    os.mkfifo(fifo)
    job = [sys.executable, "-m", "nnunet_moe.commands.study.job", "--lock", "locks/train_a", "--", "sh", "-c"]
    subprocess.run([*job, f"(read line < {fifo}; echo left >> {log}) & echo first >> {log}"], cwd=tmp_path, check=True)
    second = subprocess.Popen([*job, f"echo second >> {log}"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert second.stdout.readline() == "waiting: other processes hold train_a\n"
    assert log.read_text() == "first\n"
    fifo.write_text("go\n")
    assert second.wait() == 0 and log.read_text() == "first\nleft\nsecond\n"


def test_each_job_sees_a_device_of_its_own(tmp_path, monkeypatch):
    """Two devices, the first of which takes two jobs: three run at once, the fourth waits for any of them."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    job = [
        sys.executable,
        "-m",
        "nnunet_moe.commands.study.job",
        "--device",
        "7",
        "--device",
        "GPU-a",
        "--device",
        "7",
        "--lock",
    ]

    def start(name, script):
        return subprocess.Popen([*job, name, "--", "sh", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    seen = []
    for name in "abc":
        process = start(name, f"echo $CUDA_VISIBLE_DEVICES; read line < {fifo}")
        process.stdout.readline()  # the command itself
        seen.append(process.stdout.readline().strip())
    assert seen == ["7", "GPU-a", "7"]
    fourth = start("d", "echo $CUDA_VISIBLE_DEVICES")
    assert fourth.stdout.readline() == "waiting: other processes hold 7_0, GPU-a_0, 7_1\n"
    with fifo.open("w") as opened:
        opened.write("go\ngo\ngo\n")
    assert fourth.stdout.read().splitlines()[-1] in ("7", "GPU-a")


# results over seeds


def scores(folder, dsc, *, failure=""):
    """What `nnunet_moe evaluate` leaves of one model: code -> DSC of cases a and b."""
    from nnunet_moe.commands.evaluate.metrics import METRICS

    rows = [
        {
            **dict.fromkeys(METRICS, 0.5),
            "trainer": "nnUNetTrainerX",
            "fold": "0",
            "case": case,
            "code": code,
            "label": "lesion",
            "dsc": value,
            "volume_mm3": 10 * value,
            "reference_volume_mm3": {"a": 1, "b": 2, "c": 4}[case],
            "configuration": "c",
            "failure": failure if case == "b" else "",
        }
        for code, values in dsc.items()
        for case, value in zip("abc", values, strict=False)
    ]
    folder.mkdir(parents=True)
    StudyResults(
        rows, seeds={"x": ["nnUNetTrainerX"]}, modalities=("T1w",), codes=[(True,)], dedicated=(), labels=("lesion",)
    ).table.to_csv(folder / "results.csv", index=False)
    content = {"metric_per_case": [{"case": row["case"]} for row in rows], "unscored_cases": []}
    (folder / "summary.json").write_text(json.dumps(content))


def read(folders):
    return read_results(folders, modalities=("T1w",), codes=[(True,)], labels=("lesion",))


def model(name, seed, codes=()):
    from nnunet_moe.commands.study.models import SeededRun

    return SeededRun(Method(name, "nnUNetTrainerX"), seed, "c", codes)


def test_a_case_counts_with_its_mean_over_the_seeds(tmp_path):
    scores(tmp_path / "x0", {"T1w": (0.2, 0.4, 0.6)})
    scores(tmp_path / "x1", {"T1w": (0.4, 0.4, 1.0)})
    scores(tmp_path / "y0", {"T1w": (0.1, 0.2, 0.3)})
    results = read(
        {tmp_path / "x0": model("x", 0), tmp_path / "x1": model("x", 1), tmp_path / "y0": model("y", 0, ((True,),))}
    )
    assert results.trainers == ("x", "y") and results.dedicated == {"y"}
    assert results.values("x", (True,), "lesion", "dsc").tolist() == pytest.approx([0.3, 0.4, 0.8])
    mean = results.mean("x", (True,), "lesion", "dsc")
    assert (mean.mean, mean.cases) == (pytest.approx(0.5), 3)
    assert mean.standard_error == pytest.approx(np.std([0.3, 0.4, 0.8], ddof=1) / np.sqrt(3))
    by_hand = [np.corrcoef(volumes, (1, 2, 4))[0, 1] for volumes in ((2, 4, 6), (4, 4, 10))]
    assert results.correlation("x", (True,), "lesion") == pytest.approx(np.mean(by_hand))
    cscore, without = (results.values("x", (True,), "lesion", name) for name in ("cscore", "cscore_without_corr"))
    assert (cscore - without).tolist() == pytest.approx([np.mean(by_hand) / 8] * 3)
    spread = seed_spread(results, "lesion", "dsc").set_index(["trainer", "code"])
    assert spread.loc[("x", "mean over codes"), "by_seed"] == pytest.approx([0.4, 0.6])
    assert spread.loc[("x", "T1w"), "standard_deviation"] == pytest.approx(np.sqrt(0.02))
    assert np.isnan(spread.loc[("y", "T1w"), "standard_deviation"])


def test_a_seed_with_a_failed_case_leaves_no_mean(tmp_path):
    scores(tmp_path / "x0", {"T1w": (0.2, 0.4)})
    scores(tmp_path / "x1", {"T1w": (0.4, 0.4)}, failure="out of memory")
    results = read({tmp_path / "x0": model("x", 0), tmp_path / "x1": model("x", 1)})
    mean = results.mean("x", (True,), "lesion", "dsc")
    assert not mean.is_known and mean.failed == 1
    assert results.failures["case"].tolist() == ["b"]


def test_evaluations_that_do_not_belong_together(tmp_path):
    scores(tmp_path / "x0", {"T1w": (0.2, 0.4)})
    scores(tmp_path / "y0", {"T1w": (0.2, 0.4, 0.6)})
    with pytest.raises(ModelError, match=facts("x0", "y0", "other cases")):
        read({tmp_path / "x0": model("x", 0), tmp_path / "y0": model("y", 0)})
    with pytest.raises(ModelError, match=facts(tmp_path / "none", "finished")):
        read({tmp_path / "none": model("x", 0)})


@pytest.fixture
def scored(dataset, own_plans, tmp_path):
    """A study with three methods, its scores as if it had run: (the study's file with changes) -> its plan."""
    content = {
        **SMALLEST,
        "trainers": [{"trainer": MOESD, "seeds": [0, 1]}, BASELINE, DEDICATED],
        "baseline": BASELINE,
        "evaluation": {"codes": ["T1w"]},
    }

    def planned(**change):
        return make_plan(written(tmp_path, {**content, **change}), tmp_path / "out", "cpu")

    plan = planned()
    write_plans(plan.study, plan.trained)
    dsc = {f"{MOESD}_seed0": 0.4, f"{MOESD}_seed1": 0.6, f"{BASELINE}_seed0": 0.3, f"{DEDICATED}_seed0": 0.7}
    for name, value in dsc.items():
        folder = plan.out / "evaluations" / "validation_cases" / name
        scores(folder, {"T1w": (value, value + 0.1, value - 0.1)})
        (folder / "report.html").touch()
    for job in plan.jobs:
        plan.marker(job).parent.mkdir(parents=True, exist_ok=True)
        plan.marker(job).touch()
    (plan.out / "jobs.json").write_text(
        json.dumps({"jobs": {name: {"command": job.command} for name, job in plan.jobs.items()}, "earlier": {}})
    )
    return planned


def table(plan, name):
    return (plan.out / "report" / "validation_cases" / f"lesion_{name}.csv").read_text().splitlines()


def test_the_report_compares_the_methods_with_the_baseline_over_their_seeds(scored):
    plan = scored()
    assert plan.done() == set(plan.jobs) and plan.describe(1).endswith("All jobs are done.")
    page = write_report(plan).read_text()
    rows = [row for row in csv.reader(table(plan, "comparisons")) if row[1:3] == ["DSC", "T1w"]]
    assert [(row[0], row[4], row[-1]) for row in rows] == [
        ("MoESD - ModalityDropout", "+20.00", "50"),  # of the gap, 0.2 of 0.4
        ("Dedicated - ModalityDropout", "+40.00", "-"),
    ]
    assert table(plan, "seeds")[1].startswith('MoESD,mean over codes,2,"40.00, 60.00",50.00,14.14')
    assert f"evaluations/validation_cases/{MOESD}_seed1/report.html" in page and "Not finished" not in page
    assert "&#34;alpha&#34;: 0.1" not in page and "3d_tiny_seed1" in page


def with_versions(plan, name, trained, evaluated):
    """Write into an evaluation what it recorded of the versions; `trained` has those of each checkpoint."""
    file = plan.out / "evaluations" / "validation_cases" / name / "summary.json"
    models = {f"model, fold {fold}": {"trained_with": {f"fold_{fold}": each}} for fold, each in enumerate(trained)}
    settings = {"models": models, "versions": evaluated}
    file.write_text(json.dumps({**json.loads(file.read_text()), "settings": settings}))


NEW = {"torch": "2.14.1", "nnunetv2": "2.8.1", "batchgeneratorsv2": "0.3.6", "dynamic-network-architectures": "0.4.4"}
OLD = {**NEW, "batchgeneratorsv2": "0.3.5"}


@pytest.mark.parametrize(
    ("trained", "evaluated", "said"),
    [
        ({}, {}, []),
        ({f"{MOESD}_seed0": [NEW]}, {}, []),  # the others do not say theirs
        ({f"{MOESD}_seed0": [NEW, NEW], f"{BASELINE}_seed0": [NEW]}, {}, []),
        (
            {f"{MOESD}_seed0": [NEW], f"{MOESD}_seed1": [OLD], f"{BASELINE}_seed0": [OLD]},
            {},
            ["trained with different versions of batchgeneratorsv2: 0.3.6 (MoESD_seed0); 0.3.5 (MoESD_seed1, Moda"],
        ),
        (
            {f"{MOESD}_seed0": [OLD, NEW]},  # of one row, too, the folds must agree
            {},
            ["trained with different versions of batchgeneratorsv2: 0.3.5 (MoESD_seed0); 0.3.6 (MoESD_seed0)"],
        ),
        (
            {},
            {f"{MOESD}_seed0": {**NEW, "nnunetv2": "2.8.0", "torch": "2.9.0"}, f"{DEDICATED}_seed0": NEW},
            [
                "evaluated with different versions of torch: 2.9.0 (MoESD_seed0); 2.14.1 (Dedicated_seed0)",
                "evaluated with different versions of nnunetv2: 2.8.0 (MoESD_seed0); 2.8.1 (Dedicated_seed0)",
            ],
        ),
    ],
)
def test_the_report_warns_where_versions_differ_between_rows(scored, capsys, trained, evaluated, said):
    plan = scored()
    for name in trained.keys() | evaluated.keys():
        with_versions(plan, name, trained.get(name, []), evaluated.get(name, {}))
    page = write_report(plan).read_text()
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == len(said) == page.count("with different versions of")
    assert all(each in warning and each in page for each, warning in zip(said, warnings, strict=True))


def test_scores_of_another_evaluation_or_study_are_not_reported(scored, capsys):
    plan = scored(evaluation={"codes": ["T1w"], "min_lesion": 50})
    main(["study", str(plan.out.parent / "tiny.yaml"), "-o", str(plan.out), "-device", "cpu", "-n"])
    shown = capsys.readouterr().out
    assert "  evaluate      0 of 4 done" in shown, "a dry run says what will be done again"
    assert shown.count("nnunet_moe evaluate") == 4 and "nnUNetv2_train" not in shown
    with pytest.raises(ModelError, match=facts(plan.out, "No evaluation", "finished")):
        write_report(plan)
    write_report(scored())
    other = plan.out.parent / "other.yaml"
    other.write_text((plan.out.parent / "tiny.yaml").read_text())
    with pytest.raises(SystemExit, match=facts(plan.out, "No evaluation", "finished")):
        main(["study", str(other), "-o", str(plan.out), "-device", "cpu", "--only", "report"])


def test_without_the_baseline_nothing_is_compared_and_the_report_says_so(scored):
    shutil.rmtree(scored().out / "evaluations" / "validation_cases" / f"{BASELINE}_seed0")
    plan = scored()
    (plan.out / "report" / "old").mkdir(parents=True)
    page = write_report(plan).read_text()
    assert re.search(facts("no comparison", "validation cases", "baseline", "not finished"), page)
    assert re.search(r"Not finished[^.]*: ModalityDropout_seed0 on validation cases\.", page)
    assert not (plan.out / "report" / "validation_cases" / "lesion_comparisons.csv").exists()
    assert not (plan.out / "report" / "old").exists(), "what is no longer of the study"


def test_a_loss_that_is_no_number_is_told(scored, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    plan = scored()
    fold = tmp_path / plan.study.dataset / f"{BASELINE}__nnUNetPlans_tiny__3d_tiny_seed0" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "training_log_1.txt").write_text("t: Epoch 0 \nt: train_loss nan \n")
    assert re.search(r"NaN or infinite[^.]*ModalityDropout_seed0\.", write_report(plan).read_text())
