"""Subsets against their supersets and their dedicated models, computed a second time by loops."""

import csv
import math
import random

import pytest

from nnunet_moe.commands.evaluate.analysis import means
from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.nested import MORE_WAS_WORSE, NESTED_PAIRS, more_was_worse
from nnunet_moe.commands.evaluate.nested_tables import nested_tables
from nnunet_moe.commands.evaluate.results import MEAN_OVER_LABELS, Results
from nnunet_moe.commands.study.results import StudyResults
from nnunet_moe.modalities.codes import all_codes, code_text

NAMES = ("CT", "PET", "T1w")
CODES = all_codes(3)
LABELS = ("core", "rim")
OURS, DEDICATED = "nnUNetTrainerMoESD", "nnUNetTrainerDedicated"
COLUMNS = ["trainer", "code", "label", "metric", "mean", "standard_error", "cases", "failed",
           "difference_to_dedicated", "pairs"]  # fmt: skip


def row(trainer, case, code, label, dsc, *, failure=""):
    values = {**dict.fromkeys(METRICS, math.nan if failure else 0.5), "dsc": dsc, "lesions": 1, "reference_lesions": 1}
    about = {"trainer": trainer, "fold": "0", "case": case, "code": code_text(code, NAMES), "label": label}
    return {**about, **values, "configuration": "2d", "failure": failure}


def rows_of(scores, trainer=OURS):
    """Rows of (case, code, label) -> DSC."""
    return [row(trainer, case, code, label, dsc) for (case, code, label), dsc in scores.items()]


def made(rows, trainers=(OURS,), dedicated=(), codes=CODES, labels=LABELS):
    return Results(rows, modalities=NAMES, codes=codes, trainers=trainers, dedicated=dedicated, labels=labels)


def random_scores(seed):
    """Cases a to f; e lacks PET, f has only CT, and the rim of b was not annotated."""
    rng = random.Random(seed)
    has = dict.fromkeys("abcd", (1, 1, 1)) | {"e": (1, 0, 1), "f": (1, 0, 0)}
    return {
        (case, code, label): math.nan if (case, label) == ("b", "rim") else round(rng.random(), 2)
        for case, own in has.items()
        for code in CODES
        for label in LABELS
        if all(there or not asked for there, asked in zip(own, code, strict=True))
    }


def counted(scores, label):
    """Number of falls and of pairs, by two loops over all scores."""
    falls = pairs = 0
    for (case, few, of), before in scores.items():
        for (other, more, of_other), after in scores.items():
            are_a_pair = case == other and of == of_other == label and set_of(few) < set_of(more)
            if are_a_pair and not math.isnan(before) and not math.isnan(after):
                pairs += 1
                falls += round(before - after, 6) > 0.01
    return falls, pairs


def set_of(code):
    return {place for place, has in enumerate(code) if has}


def worse_of(results, label, trainer=OURS):
    worse = more_was_worse(results, trainer, label)
    assert worse is not None
    return worse


def test_more_was_worse_is_what_two_loops_over_all_scores_count():
    scores = random_scores(0)
    results = made(rows_of(scores))
    for label in LABELS:
        falls, pairs = counted(scores, label)
        worse = worse_of(results, label)
        assert (worse.mean.mean, worse.pairs) == (falls / pairs, pairs)
    assert worse_of(results, "core").pairs == 4 * 12 + 2, "four complete cases, and one with CT and T1w"
    assert worse_of(results, "rim").pairs == 3 * 12 + 2 and worse_of(results, "rim").mean.cases == 4
    mean = {
        (case, code, MEAN_OVER_LABELS): dsc if case == "b" else (dsc + scores[case, code, "rim"]) / 2
        for (case, code, label), dsc in scores.items()
        if label == "core"
    }
    falls, pairs = counted(mean, MEAN_OVER_LABELS)
    worse = worse_of(results, MEAN_OVER_LABELS)
    assert (worse.mean.mean, worse.pairs) == (falls / pairs, pairs)


@pytest.mark.parametrize(("sign", "share"), [(1, 0), (-1, 1)])
def test_scores_that_rise_with_each_modality_are_never_worse_and_those_that_fall_always_are(sign, share):
    rng = random.Random(1)
    gains = {case: [rng.uniform(0.02, 0.2) for _ in NAMES] for case in "abc"}
    scores = {
        (case, code, "core"): 0.5 + sign * sum(gain for gain, has in zip(gains[case], code, strict=True) if has)
        for case in gains
        for code in CODES
    }
    worse = worse_of(made(rows_of(scores), labels=("core",)), "core")
    assert (worse.mean.mean, worse.mean.standard_error, worse.mean.cases, worse.pairs) == (share, 0, 3, 36)


def test_each_seed_of_a_study_counts_by_itself():
    """With one seed the score falls in all pairs of case a, with the other in none; their mean never falls."""
    falling = {("a", code, "core"): 0.9 - 0.1 * sum(code) for code in CODES}
    rising = {("a", code, "core"): 0.1 + 0.2 * sum(code) for code in CODES}
    rows = [*rows_of(falling, "one_seed0"), *rows_of(rising, "one_seed1")]
    results = StudyResults(rows, seeds={"one": ("one_seed0", "one_seed1")}, modalities=NAMES, codes=CODES,
                           dedicated=(), labels=("core",))  # fmt: skip
    worse = worse_of(results, "core", "one")
    assert (worse.mean.mean, worse.pairs, worse.mean.cases) == (0.5, 24, 1)


def test_after_a_failure_no_share_is_given():
    scores = random_scores(0)
    rows = [*rows_of(scores), *rows_of(scores, "other")]
    rows[0] = {**rows[0], "dsc": math.nan, "failure": "no memory"}
    results = made(rows, trainers=(OURS, "other"))
    worse = worse_of(results, "core")
    assert math.isnan(worse.mean.mean) and (worse.mean.failed, worse.pairs) == (1, 0)
    assert worse_of(results, "core", "other").pairs == 50
    table = nested_tables(results, means(results), "core")[MORE_WAS_WORSE]
    assert [cell.text for cell in table.rows[0]] == ["MoESD", "1 failed", "0", "0"]


def test_without_nested_codes_there_is_nothing_to_count():
    scores = {key: dsc for key, dsc in random_scores(0).items() if sum(key[1]) == 1}
    results = made(rows_of(scores), codes=CODES[:3])
    assert more_was_worse(results, OURS, "core") is None
    averaged = means(results)
    assert MORE_WAS_WORSE not in set(averaged["metric"]) and not nested_tables(results, averaged, "core")


def with_dedicated():
    """Dedicated models for all codes but the complete one."""
    ours = {key: dsc for key, dsc in random_scores(0).items() if key[2] == "core"}
    dedicated = {key: dsc for key, dsc in random_scores(1).items() if key[2] == "core" and not all(key[1])}
    rows = [*rows_of(ours), *rows_of(dedicated, DEDICATED)]
    return ours, dedicated, made(rows, (OURS, DEDICATED), (DEDICATED,), labels=("core",))


def test_the_difference_to_the_dedicated_model_of_each_code():
    ours, dedicated, results = with_dedicated()
    table = means(results).query("metric == 'dsc'").set_index(["trainer", "code"])["difference_to_dedicated"]
    expected = []
    for code in CODES[:-1]:
        differences = [ours[key] - dedicated[key] for key in dedicated if key[1] == code]
        expected.append(sum(differences) / len(differences))
        assert table[OURS, code_text(code, NAMES)] == pytest.approx(expected[-1])
    assert math.isnan(table[OURS, "CT+PET+T1w"]), "it has no dedicated model"
    assert math.isnan(table[OURS, "mean over codes"]), "nor has the mean over all codes"
    assert table[DEDICATED].isna().all()
    shown = nested_tables(results, means(results), "core")["dedicated"]
    assert [cell.text for cell in shown.rows[0]] == ["●", "○", "○", f"{100 * expected[0]:+.2f}"]
    assert [line[0].text for line in shown.rows[-3:]] == ["all that each case has", "mean over codes", "worst subset"]
    assert shown.rows[-1][-1].text == f"{100 * min(expected):+.2f}"
    results.codes = tuple(CODES[:-1])
    over_codes = means(results).set_index(["trainer", "code", "metric"])["difference_to_dedicated"]
    of_complete = [ours[key] - dedicated[key] for key in dedicated if key[0] in "abcd"]
    assert over_codes[OURS, "mean over codes", "dsc"] == pytest.approx(sum(of_complete) / len(of_complete))


def test_the_new_columns_of_means_csv_come_last_and_are_empty_elsewhere():
    _, _, results = with_dedicated()
    lines = list(csv.DictReader(means(results).to_csv(index=False).splitlines()))
    assert list(lines[0]) == COLUMNS
    worse = {line["trainer"]: line for line in lines if line["metric"] == MORE_WAS_WORSE}
    assert {line["code"] for line in worse.values()} == {NESTED_PAIRS}
    assert (worse[OURS]["pairs"], worse[DEDICATED]["pairs"]) == ("50", "26"), "6 pairs end at the complete code"
    assert {line["pairs"] for line in lines if line["metric"] != MORE_WAS_WORSE} == {""}
