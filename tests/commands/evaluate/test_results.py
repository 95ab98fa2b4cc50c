"""Means, tables and the report of results made up for the purpose."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver

from facts import facts
from nnunet_moe.commands.evaluate.analysis import EACH_CASE, EACH_CASE_AND_CODE, comparisons, means, modality_worth
from nnunet_moe.commands.evaluate.evaluate import Evaluation, extreme_cases, require_own_files
from nnunet_moe.commands.evaluate.figures import scores_by_code
from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.overlay import Overlay
from nnunet_moe.commands.evaluate.report import write_evaluation
from nnunet_moe.commands.evaluate.request import Request
from nnunet_moe.commands.evaluate.results import ALL_EACH_HAS, CSCORE, ISBI_SCORE, MEAN_OVER_LABELS, Results
from nnunet_moe.commands.evaluate.tables import code_table, failure_table
from nnunet_moe.commands.evaluate.verdict import verdict
from nnunet_moe.errors import SettingsError
from nnunet_moe.modalities.codes import all_codes, code_text
from nnunet_moe.models.choice import ModelsChoice
from nnunet_moe.reports.table import BEST, PLAIN, SECOND, emphases
from nnunet_moe.runtime.files import folder_name
from nnunet_moe.runtime.network_time import NetworkTime

OURS, BASELINE, DEDICATED = "nnUNetTrainerMoESD", "nnUNetTrainerModalityDropout", "nnUNetTrainerDedicated"
NAMES = ("T1w", "FLAIR")
T1W, FLAIR, BOTH = all_codes(2)
LABEL = "lesion"


def row(trainer, case, code, dsc, label=LABEL, *, failure="", **metrics):
    """A row whose other metrics are those of a case with nothing but a DSC to tell."""
    values = (
        dict.fromkeys(METRICS, math.nan)
        if failure
        else {**dict.fromkeys(METRICS, 0.5), "lesions": 1, "reference_lesions": 1, "dsc": dsc, **metrics}
    )
    about = {"trainer": trainer, "fold": "0", "case": case, "code": code_text(code, NAMES), "label": label}
    return {**about, **values, "configuration": "3d_fullres", "failure": failure}


def made(rows, trainers=(OURS,), labels=(LABEL,), dedicated=()):
    return Results(rows, modalities=NAMES, codes=all_codes(2), trainers=trainers, dedicated=dedicated, labels=labels)


def of_cases(trainer, scores):
    """Rows of cases a, b, c, ...: code -> a DSC each."""
    return [
        row(trainer, case, code, dsc)
        for code, values in scores.items()
        for case, dsc in zip("abcdef", values)  # noqa: B905
    ]


def test_means_and_standard_errors_computed_by_hand():
    results = made(of_cases(OURS, {T1W: (0.1, 0.2, 0.6), FLAIR: (0.4, 0.4, 0.4), BOTH: (0.7, 0.6, 0.8)}))
    mean = results.mean(OURS, T1W, LABEL, "dsc")
    assert (mean.mean, mean.cases, mean.failed) == (pytest.approx(0.3), 3, 0)
    assert mean.standard_error == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2 / 3))
    over_codes = results.mean_over_codes(OURS, LABEL, "dsc")
    assert over_codes.mean == pytest.approx((0.3 + 0.4 + 0.7) / 3)
    assert over_codes.standard_error == pytest.approx(np.std([0.4, 0.4, 0.6], ddof=1) / math.sqrt(3))


def test_the_cscore_computed_by_hand():
    """Volumes 1, 2, 2 against 1, 2, 3 correlate by sqrt(3)/2; each case adds its own part."""
    cases = [(0.8, 0.6, 0.5, 0.2, 1, 1), (0.6, 0.4, 1.0, 0.0, 2, 2), (0.4, 0.2, 0.0, 1.0, 2, 3)]
    names = ("ppv", "ltpr", "lfpr", "volume_mm3", "reference_volume_mm3")
    rows = [
        row(OURS, case, code, dsc, **dict(zip(names, more, strict=True)))
        for code in all_codes(2)
        for case, (dsc, *more) in zip("abc", cases, strict=True)
    ]
    results = made(rows)
    own = [0.1 + 0.075 + 0.125 + 0.2, 0.075 + 0.05 + 0.25 + 0.25, 0.05 + 0.025 + 0 + 0]
    correlation = math.sqrt(3) / 2
    assert results.correlation(OURS, BOTH, LABEL) == pytest.approx(correlation)
    mean = results.mean(OURS, BOTH, LABEL, CSCORE)
    assert mean.mean == pytest.approx(np.mean(own) + correlation / 8)
    assert mean.standard_error == pytest.approx(np.std(own, ddof=1) / math.sqrt(3))
    assert results.mean(OURS, BOTH, LABEL, ISBI_SCORE).mean == pytest.approx(np.mean(own) + correlation / 4)
    assert list(results.table["cscore_without_corr"][:3]) == pytest.approx(own)
    assert results.mean_over_codes(OURS, LABEL, CSCORE).mean == pytest.approx(np.mean(own) + correlation / 8)


def test_a_metric_that_is_not_defined_for_a_case_has_the_mean_of_the_others():
    rows = of_cases(OURS, {code: (0.5, 0.5, 0.5) for code in all_codes(2)})
    for entry in rows:
        entry["ltpr"] = math.nan if entry["case"] == "a" else 0.2
    mean = made(rows).mean(OURS, T1W, LABEL, "ltpr")
    assert (mean.mean, mean.cases, mean.failed) == (pytest.approx(0.2), 2, 0)


FAILED = [
    *of_cases(OURS, {FLAIR: (0.4, 0.4, 0.4), BOTH: (0.7, 0.6, 0.8)}),
    *[row(OURS, case, T1W, dsc) for case, dsc in (("a", 0.9), ("b", 0.9))],
    row(OURS, "c", T1W, math.nan, failure="no space left"),
    *of_cases(BASELINE, {code: (0.3, 0.3, 0.3) for code in all_codes(2)}),
]


def test_a_failure_is_counted_and_never_averaged_away():
    results = made(FAILED, trainers=(OURS, BASELINE))
    mean = results.mean(OURS, T1W, LABEL, "dsc")
    assert math.isnan(mean.mean) and mean.failed == 1
    assert math.isnan(results.mean_over_codes(OURS, LABEL, "dsc").mean)
    assert results.mean_over_codes(BASELINE, LABEL, "dsc").mean == pytest.approx(0.3)
    assert results.failures.to_dict("records") == [
        {"trainer": OURS, "fold": "0", "case": "c", "code": "T1w", "failure": "no space left"}
    ]
    table = code_table(results, LABEL)
    first, last = table.rows[0], table.rows[-1]
    assert [cell.text for cell in first[3:5]] == ["1 failed", "30.00 ± 0.00"]
    assert all(cell.emphasis == PLAIN for cell in (*first, *last)), "nothing is best where something failed"
    assert [cell.emphasis for cell in table.rows[1][3:5]] == [BEST, SECOND]
    assert [cell.text for cell in last[3:5]] == ["1 failed", "30.00 ± 0.00"]
    assert "no space left" in failure_table(results).markdown()
    compared = comparisons(results)
    assert "T1w" not in set(compared["code"])
    assert set(compared["code"]) == {"FLAIR", "T1w+FLAIR"}, "nor what spans the codes"
    assert modality_worth(results).query("trainer == @OURS")["shapley_value"].isna().all()


def test_the_mean_with_all_that_each_case_has_computed_by_hand():
    """Cases a and b have both modalities, c and d one each."""
    rows = [
        *of_cases(OURS, {T1W: (0.1, 0.2, 0.9), FLAIR: (0.4, 0.5), BOTH: (0.6, 0.7)}),
        row(OURS, "d", FLAIR, 0.3),
    ]
    results = made(rows)
    assert results.own_codes == {"a": BOTH, "b": BOTH, "c": T1W, "d": FLAIR} and results.cases_differ
    mean = results.mean(OURS, ALL_EACH_HAS, LABEL, "dsc")
    assert (mean.mean, mean.cases) == (pytest.approx((0.6 + 0.7 + 0.9 + 0.3) / 4), 4)
    own, over_codes = code_table(results, LABEL).rows[-2:]
    assert [own[0].text, own[2].text, own[3].text[:5]] == ["all that each case has", "4", "62.50"]
    assert over_codes[0].text == "mean over codes"
    table = means(results).query("metric == 'dsc'").set_index("code")["mean"]
    assert table["all that each case has"] == pytest.approx(0.625)


def test_where_each_case_is_of_one_kind_there_is_no_mean_over_codes():
    rows = [
        row(trainer, case, code, dsc)
        for trainer, shift in ((OURS, 0.1), (BASELINE, 0.0))
        for case, code, dsc in (("a", T1W, 0.5 + shift), ("b", FLAIR, 0.3 + shift), ("c", FLAIR, 0.4))
    ]
    results = Results(
        rows, modalities=NAMES, codes=[T1W, FLAIR], trainers=(OURS, BASELINE), dedicated=(), labels=(LABEL,)
    )
    table = code_table(results, LABEL)
    assert [line[0].text for line in table.rows] == ["●", "○", "all that each case has"]
    assert [cell.text[:5] for cell in table.rows[-1][2:5]] == ["3", "46.67", "40.00"]
    assert any("None of 3 cases have all these modalities" in note for note in table.notes)
    assert "mean over codes" not in set(means(results)["code"])
    compared = comparisons(results).query("metric == 'dsc'").set_index("code")
    assert compared.loc["all that each case has", "pairs"] == 3
    assert compared.loc["all that each case has", "mean_difference"] == pytest.approx(0.2 / 3)
    assert extreme_cases(results) == [
        ("Worst case of MoESD", "b"),
        ("Median case of MoESD", "c"),
        ("Best case of MoESD", "a"),
    ]


def test_labels_that_some_kinds_do_not_have_are_counted_where_they_are():
    """Kind T1w shows both labels in three cases, kind FLAIR the core alone in two."""
    rows = [row(OURS, case, T1W, 0.5, label, volume_mm3=volume, reference_volume_mm3=true)
            for label, volumes in (("core", (1, 2, 3)), ("rim", (1, 2, 3)))
            for case, true, volume in zip("abc", (1, 2, 3), volumes, strict=True)]  # fmt: skip
    rows += [row(OURS, case, FLAIR, 0.5, "core", volume_mm3=1, reference_volume_mm3=1) for case in "de"]
    rows += [{**row(OURS, case, FLAIR, 0.5, "rim"), **dict.fromkeys(METRICS, math.nan)} for case in "de"]
    results = Results(
        rows, modalities=NAMES, codes=[T1W, FLAIR], trainers=(OURS,), dedicated=(), labels=("core", "rim")
    )
    for label, counts in (("core", ["T1w (n = 3)", "FLAIR (n = 2)"]), ("rim", ["T1w (n = 3)", "FLAIR (n = 0)"])):
        axis = scores_by_code(results, label).axes[-1]
        assert [tick.get_text() for tick in axis.get_xticklabels()] == counts
        assert axis.get_xlim() == (-0.5, 1.5)
    notes = code_table(results, MEAN_OVER_LABELS).notes
    assert any(re.search(facts("CScore", "labels", "volume correlation", "three cases"), note) for note in notes)
    # under neither code are there three cases of this label, but there are with all that each case has
    apart = [row(OURS, case, code, 0.5, volume_mm3=volume, reference_volume_mm3=volume)
             for case, code, volume in (("a", T1W, 1), ("b", T1W, 2), ("c", FLAIR, 4), ("d", FLAIR, 3))]  # fmt: skip
    table = code_table(
        Results(apart, modalities=NAMES, codes=[T1W, FLAIR], trainers=(OURS,), dedicated=(), labels=(LABEL,)), LABEL
    )
    assert [cell.text == "-" for cell in (line[-1] for line in table.rows)] == [True, True, False]
    assert not any("no CScore" in note for note in table.notes)


def test_a_modality_that_no_case_has_is_named():
    rows = [row(OURS, case, FLAIR, 0.5) for case in "ab"]
    results = Results(
        rows, modalities=NAMES, codes=[FLAIR], trainers=(OURS,), dedicated=(), labels=(LABEL,), cases="abc"
    )
    assert results.unseen == ("T1w",)
    assert results.cases_of(FLAIR) == {"a", "b"} and not results.cases_of(T1W)


def test_where_all_cases_have_the_same_nothing_is_said_twice():
    results = made(of_cases(OURS, {code: (0.5, 0.6) for code in all_codes(2)}))
    assert not results.cases_differ
    assert "all that each case has" not in set(means(results)["code"])
    assert results.mean(OURS, ALL_EACH_HAS, LABEL, "dsc").cases == 0


def test_a_case_that_was_not_scored_with_all_it_has_leaves_no_mean_with_all():
    """Of a and b only the single modalities were asked for; c has no more than that."""
    results = made(of_cases(OURS, {T1W: (0.1, 0.2, 0.9), FLAIR: (0.4, 0.5)}))
    assert results.own_codes == {"c": T1W} and not results.cases_differ


def test_means_over_other_cases_are_not_mixed():
    """Case c lacks FLAIR: T1w has three cases, the rest two, and what spans codes is over these two."""
    scores = {T1W: (0.1, 0.2, 0.9), FLAIR: (0.4, 0.5), BOTH: (0.6, 0.7)}
    results = made(of_cases(OURS, scores))
    assert results.complete_cases == {"a", "b"}
    assert results.mean(OURS, T1W, LABEL, "dsc").mean == pytest.approx(0.4)
    assert results.mean_over_codes(OURS, LABEL, "dsc").mean == pytest.approx((0.15 + 0.45 + 0.65) / 3)
    worth = modality_worth(results).query("metric == 'dsc'").set_index("modality")
    assert worth.loc["T1w", "score_alone"] == pytest.approx(0.15)
    assert worth.loc["FLAIR", "loss_when_missing"] == pytest.approx(0.65 - 0.15)
    table = code_table(results, LABEL)
    assert [table_row[2].text for table_row in table.rows] == ["3", "2", "2", "3", "2"]  # the last: mean over codes
    assert "2 of 3 cases have all these modalities" in table.markdown()


def test_a_comparison_over_codes_is_over_the_cases_of_the_tables_mean_over_codes():
    ours = {T1W: (0.1, 0.2, 0.9), FLAIR: (0.4, 0.5), BOTH: (0.6, 0.7)}
    rows = [*of_cases(OURS, ours), *of_cases(BASELINE, {code: [0.3] * len(ours[code]) for code in ours})]
    results = made(rows, trainers=(OURS, BASELINE))
    compared = comparisons(results).set_index(["metric", "code"])
    assert compared.loc[("dsc", EACH_CASE), "pairs"] == 2
    assert compared.loc[("dsc", EACH_CASE_AND_CODE), "pairs"] == 6
    difference = (0.15 + 0.45 + 0.65) / 3 - 0.3
    assert compared.loc[("dsc", EACH_CASE), "mean_difference"] == pytest.approx(difference)
    assert compared.loc[("cscore_without_corr", EACH_CASE), "mean_difference"] == pytest.approx(difference / 8)


def test_a_case_without_annotation_of_a_label_takes_the_cscore_from_no_other():
    volumes = [(1.0, 2.0), (2.0, 3.0), (3.0, 5.0), (4.0, 4.0)]
    rows = [
        row(OURS, case, BOTH, 0.8, volume_mm3=volume, reference_volume_mm3=reference)
        for case, (volume, reference) in zip("abcd", volumes, strict=True)
    ]
    unannotated = {**row(OURS, "e", BOTH, 0.8), **dict.fromkeys(METRICS, math.nan)}
    without, with_it = made(rows), made([*rows, unannotated])
    expected = float(np.corrcoef(*zip(*volumes, strict=True))[0, 1])
    for results in (without, with_it):
        assert results.correlation(OURS, BOTH, LABEL) == pytest.approx(expected)
        assert results.mean(OURS, BOTH, LABEL, "dsc").cases == results.mean(OURS, BOTH, LABEL, CSCORE).cases == 4
    assert with_it.mean(OURS, BOTH, LABEL, CSCORE) == without.mean(OURS, BOTH, LABEL, CSCORE)


def test_the_volume_correlation_alone_makes_no_difference_significant():
    rows = [row(trainer, case, code, 0.5, volume_mm3=volume, reference_volume_mm3=true)
            for trainer in (OURS, BASELINE) for code in all_codes(2)
            for case, true, volume in zip("abcd", (1, 2, 3, 4), (1, 2, 3, 4) if trainer == OURS else (4, 1, 3, 2),
                                          strict=True)]  # fmt: skip
    results = made(rows, trainers=(OURS, BASELINE))
    assert results.mean(OURS, BOTH, LABEL, CSCORE).mean > results.mean(BASELINE, BOTH, LABEL, CSCORE).mean
    assert set(comparisons(results)["p"]) == {1.0}


def test_names_with_signs_of_mathematics_are_drawn(tmp_path):
    rows = [row(OURS, case, BOTH, 0.5, "les$\\ion$") | {"code": "T$1^$+FLAIR"} for case in "ab"]
    results = Results(rows, modalities=("T$1^$", "FLAIR"), codes=[BOTH], trainers=("nnUNetTrainer_250epochs",),
                      dedicated=(), labels=("les$\\ion$",))  # fmt: skip
    write_evaluation(Evaluation(results, {}, [], {}, NetworkTime()), request_for(tmp_path))
    assert (tmp_path / "report.html").exists()


def test_codes_that_no_trainer_takes_leave_the_cases_complete():
    results = made(of_cases(OURS, {BOTH: (0.5, 0.6)}))
    assert results.complete_cases == {"a", "b"}
    assert "cases have all these modalities" not in code_table(results, LABEL).markdown()
    assert extreme_cases(results)[0][1] == "a"


def test_the_gap_over_one_common_code_is_over_the_cases_of_its_row():
    rows = [*of_cases(OURS, {T1W: (0.5, 0.5, 0.9), BOTH: (0.6, 0.6)}), *of_cases(BASELINE, {T1W: (0.4, 0.4, 0.1)}),
            *of_cases(DEDICATED, {T1W: (0.6, 0.6, 0.2)})]  # fmt: skip
    results = made(rows, trainers=(OURS, BASELINE, DEDICATED), dedicated=(DEDICATED,))
    compared = comparisons(results).query("metric == 'dsc' and trainer == @OURS and versus == @BASELINE")
    assert compared.set_index("code").loc[EACH_CASE, "gap_closed_percent"] == pytest.approx(50)


def test_a_case_that_failed_under_a_code_is_no_extreme_case():
    rows = [entry for entry in of_cases(OURS, {code: (0.5, 0.1, 0.9) for code in all_codes(2)})
            if (entry["case"], entry["code"]) != ("c", "T1w")]  # fmt: skip
    results = made([*rows, row(OURS, "c", T1W, math.nan, failure="no memory")])
    assert [case for _, case in extreme_cases(results)] == ["b", "a"]


def test_a_case_without_any_score_is_in_no_mean_and_no_extreme_case():
    nothing = {metric: math.nan for metric in METRICS if metric != "dsc"}
    cases = {"a": 0.4, "b": math.nan, "c": 0.8}
    results = made(
        [
            row(OURS, case, code, dsc, **(nothing if math.isnan(dsc) else {}))
            for case, dsc in cases.items()
            for code in all_codes(2)
        ]
    )
    for code in (T1W, BOTH, None):
        mean = results.mean(OURS, code, LABEL, "dsc")
        assert (mean.mean, mean.cases) == (pytest.approx(0.6), 2)
    assert [case for _, case in extreme_cases(results)] == ["a", "c"]
    assert extreme_cases(made([row(OURS, "b", code, math.nan, **nothing) for code in all_codes(2)])) == []


def test_the_correlation_of_the_mean_over_labels_is_that_in_its_cscore():
    rows = [row(OURS, case, code, 0.5, label, volume_mm3=volume, reference_volume_mm3=true)
            for code in all_codes(2) for label, volumes in (("core", (1, 2, 3)), ("rim", (300, 100, 200)))
            for case, true, volume in zip("abc", (1, 2, 3), volumes, strict=True)]  # fmt: skip
    results = made(rows, labels=("core", "rim"))
    assert results.correlation(OURS, BOTH, MEAN_OVER_LABELS) == pytest.approx((1 - 0.5) / 2)
    own = 0.5 / 8 + 0.5 / 8 + 0.5 / 4 + 0.5 / 4
    assert results.mean(OURS, BOTH, MEAN_OVER_LABELS, CSCORE).mean == pytest.approx(own + 0.25 / 8)


def test_several_labels_have_a_mean():
    rows = [row(OURS, case, code, dsc, label) for code in all_codes(2) for case in "ab" for label, dsc in
            (("core", 0.2), ("rim", 0.6))]  # fmt: skip
    results = made(rows, labels=("core", "rim"))
    assert results.shown_labels == (MEAN_OVER_LABELS, "core", "rim")
    assert results.mean(OURS, T1W, MEAN_OVER_LABELS, "dsc").mean == pytest.approx(0.4)
    assert results.mean(OURS, T1W, "rim", "dsc").mean == pytest.approx(0.6)


def three_trainers():
    ours = {T1W: (0.50, 0.52, 0.60), FLAIR: (0.70, 0.72, 0.81), BOTH: (0.80, 0.83, 0.90)}
    baseline = {T1W: (0.40, 0.41, 0.45), FLAIR: (0.70, 0.71, 0.75), BOTH: (0.81, 0.80, 0.85)}
    dedicated = {T1W: (0.60, 0.62, 0.70), BOTH: (0.70, 0.72, 0.70)}
    rows = [*of_cases(OURS, ours), *of_cases(BASELINE, baseline), *of_cases(DEDICATED, dedicated)]
    return made(rows, trainers=(OURS, BASELINE, DEDICATED), dedicated=(DEDICATED,))


def test_the_gap_to_the_dedicated_models():
    compared = comparisons(three_trainers()).query("metric == 'dsc' and trainer == @OURS and versus == @BASELINE")
    gap = compared.set_index("code")["gap_closed_percent"]
    assert gap["T1w"] == pytest.approx(100 * (0.54 - 0.42) / (0.64 - 0.42))
    assert math.isnan(gap["FLAIR"]), "no dedicated model"
    assert math.isnan(gap["T1w+FLAIR"]), "the dedicated model is worse"
    assert math.isnan(gap[EACH_CASE_AND_CODE])
    assert math.isnan(gap[EACH_CASE]), "one code has no dedicated model"
    results = three_trainers()
    results.codes = (T1W, BOTH)
    ours, baseline, best = np.mean([0.54, 2.53 / 3]), np.mean([0.42, 2.46 / 3]), np.mean([0.64, 2.12 / 3])
    gap = comparisons(results).query("metric == 'dsc' and trainer == @OURS and versus == @BASELINE")
    closed = gap.set_index("code")["gap_closed_percent"][EACH_CASE]
    assert best > baseline and closed == pytest.approx(100 * (ours - baseline) / (best - baseline))


def test_pairs_of_trainers_over_the_same_cases():
    compared = comparisons(three_trainers()).query("metric == 'dsc'")
    pairs = compared.set_index(["trainer", "versus", "code"])
    assert pairs.loc[(OURS, BASELINE, EACH_CASE_AND_CODE), "pairs"] == 9
    assert pairs.loc[(OURS, BASELINE, EACH_CASE), "pairs"] == 3
    assert pairs.loc[(OURS, DEDICATED, EACH_CASE_AND_CODE), "pairs"] == 6
    assert pairs.loc[(OURS, BASELINE, "T1w"), "mean_difference"] == pytest.approx(0.12)
    assert pairs.loc[(OURS, BASELINE, "T1w"), "effect_size"] == 1
    assert pairs.loc[(OURS, BASELINE, "T1w"), "p"] == pytest.approx(2 / 2**3)
    assert pairs.loc[(OURS, BASELINE, "T1w"), "p_holm"] == pytest.approx(3 * 2 / 2**3)


def test_the_codes_table_in_markdown_csv_and_latex():
    table = code_table(three_trainers(), LABEL)
    lines = table.markdown().splitlines()
    assert lines[2].startswith("| T1w | FLAIR | Cases | DSC MoESD | DSC ModalityDropout | DSC Dedicated | CScore MoESD")
    assert lines[4].startswith("| ● | ○ | 3 | <u>54.00 ± 3.06</u> | 42.00 ± 1.53 | **64.00 ± 3.06** |")
    assert lines[5].startswith("| ○ | ● | 3 | **74.33 ± 3.38** | <u>72.00 ± 1.53</u> | - |")
    assert lines[7].startswith("| mean over codes |  | 3 | **70.89 ±") and "| - |" in lines[7]
    rows = list(csv.reader(table.csv().splitlines()))
    assert rows[0][:4] == ["T1w", "FLAIR", "Cases", "DSC MoESD"] and rows[1][:4] == ["●", "○", "3", "54.00 ± 3.06"]
    latex = table.latex()
    assert r"\multicolumn{2}{c}{Modalities} &  & \multicolumn{3}{c}{DSC} & \multicolumn{3}{c}{CScore} \\" in latex
    assert r"$\bullet$ & $\circ$ & 3 & \underline{54.00 $\pm$ 3.06} & 42.00 $\pm$ 1.53 & \textbf{64.00" in latex
    assert latex.count("{") == latex.count("}")


def test_best_and_second_best_are_marked_alike_where_they_read_alike():
    assert emphases([0.50001, 0.50004, 0.4, 0.3]) == [BEST, BEST, SECOND, PLAIN]
    assert emphases([math.nan, 0.2]) == [PLAIN, BEST]


def test_names_are_written_as_they_are_everywhere():
    """A label or modality may hold what Markdown, LaTeX or HTML take for signs."""
    names, label = ("T1|a_b", "<b>&"), "50%_{x}"
    rows = [row(OURS, "a", BOTH, 0.5, label) | {"code": "T1|a_b+<b>&"}]
    results = Results(rows, modalities=names, codes=[BOTH], trainers=(OURS,), dedicated=(), labels=(label,))
    table = code_table(results, label)
    assert r"| T1\|a\_b | &lt;b\>& |" in table.markdown()
    assert (
        r"T1\textbar{}a\_b & \textless{}b\textgreater{}\& & Cases" in table.latex() and r"50\%\_\{x\}" in table.latex()
    )
    assert "<th>&lt;b&gt;&amp;</th>" in table.html()


def test_names_that_would_share_a_file():
    assert folder_name("T1/Gd:post") == "T1_Gd_post" and folder_name("..") == "_"
    with pytest.raises(SettingsError, match=facts("'T1/Gd'", "'T1_Gd'", "same file")):
        require_own_files(("T1/Gd", "FLAIR", "T1_Gd"))


def test_with_many_labels_only_their_mean_has_pictures(tmp_path):
    labels = tuple(f"organ{number}" for number in range(11))
    rows = [row(OURS, case, code, 0.5, label) for code in all_codes(2) for case in "ab" for label in labels]
    write_evaluation(Evaluation(made(rows, labels=labels), {}, [], {}, NetworkTime()), request_for(tmp_path))
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mean over labels_scores.png"]
    assert len(list((tmp_path / "tables").glob("*_codes.md"))) == 12


def test_the_extreme_cases():
    results = made(of_cases(OURS, {code: (0.5, 0.1, 0.9, 0.7) for code in all_codes(2)}))
    ours = [(f"{title} case of MoESD", case) for title, case in (("Worst", "b"), ("Median", "a"), ("Best", "c"))]
    assert extreme_cases(results) == ours
    assert extreme_cases(made([row(OURS, "a", code, 0.5) for code in all_codes(2)])) == [("Only case", "a")]


def evaluation_of(results):
    images, labels = np.random.default_rng(0).random((2, 20, 24)), np.zeros((20, 24), dtype=int)
    labels[5:9, 5:9] = 1
    shown = {(trainer, code): np.roll(labels, 1) for trainer in (OURS, BASELINE) for code in all_codes(2)}
    overlay = Overlay("a", "Worst case", images, labels, shown, dict.fromkeys(shown, 0.5), 1.0)
    gates = {f"encoder.stages.{stage}.0.convs.1.conv": np.full((3, 4), 0.25) for stage in range(14)}
    return Evaluation(results, {f"{OURS}, fold 0": gates}, [overlay], {}, NetworkTime())


def request_for(folder):
    choice = ModelsChoice(dataset="Dataset901_Tiny", configuration="3d_tiny", trainers=(OURS, BASELINE))
    return Request(models=choice, out=folder)


def test_everything_is_written_and_the_same_again(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        write_evaluation(evaluation_of(three_trainers()), request_for(folder))
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) for folder in folders]
    assert files[0] == files[1]
    assert {str(file) for file in files[0]} == {
        "results.csv", "means.csv", "comparisons.csv", "modalities.csv", "summary.json", "report.html",
        *(f"tables/lesion_{name}.{ending}" for name in
          ("codes", "metrics", "comparisons", "modalities", "dedicated", "more_was_worse")
          for ending in ("md", "csv", "tex")),
        *(f"figures/{name}.png" for name in
          ("lesion_scores", "lesion_differences", "case_worst", f"gates_{OURS}")),
    }  # fmt: skip
    for file in files[0]:
        contents = [(folder / file).read_bytes().replace(str(folder).encode(), b"OUT") for folder in folders]
        assert contents[0] == contents[1], file


def test_the_files_say_what_is_not_defined_and_what_failed(tmp_path):
    write_evaluation(evaluation_of(made(FAILED, trainers=(OURS, BASELINE))), request_for(tmp_path))
    with (tmp_path / "results.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0])[:11] == ["trainer", "fold", "case", "code", "label", "dsc", "ppv", "sensitivity", "ltpr",
                                  "lfpr", "lesion_f1"]  # fmt: skip
    (failed,) = (entry for entry in rows if entry["failure"])
    assert failed["dsc"] == "" and failed["code"] == "T1w" and len(rows) == 18
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["num_failed"] == 1 and summary["mean"][OURS]["T1w"][LABEL]["dsc"] is None
    assert summary["mean"][BASELINE]["T1w"][LABEL]["dsc"] == pytest.approx(0.3)
    assert summary["settings"]["metrics"] == {"connectivity": 26, "min_lesion_mm3": 0.0, "tolerance_mm": 1.0}
    assert set(summary["settings"]["versions"]) >= {"nnunet-moe", "nnunetv2", "torch"}
    assert "no space left" in (tmp_path / "report.html").read_text()


def test_means_in_a_long_table():
    table = means(three_trainers()).set_index(["trainer", "code", "label", "metric"])
    assert table.loc[(OURS, "T1w", LABEL, "dsc"), "mean"] == pytest.approx(0.54)
    assert table.loc[(OURS, "mean over codes", LABEL, "dsc"), "cases"] == 3
    assert math.isnan(table.loc[(DEDICATED, "FLAIR", LABEL, "dsc"), "mean"])


@pytest.fixture
def browser(tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
                     f"--user-data-dir={tmp_path / 'browser'}"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_the_report_in_a_browser(browser, tmp_path):
    report = write_evaluation(evaluation_of(made(FAILED, trainers=(OURS, BASELINE))), request_for(tmp_path / "out"))
    alone = Path(shutil.copy(report, tmp_path / "report.html"))  # without the pictures beside it
    browser.set_window_size(1200, 900)
    browser.get(alone.as_uri())

    def find(script):
        return browser.execute_script(f"return {script}")

    captions = find("[...document.querySelectorAll('figure:has(table) figcaption')].map(x => x.textContent)")
    assert captions == ["Failed segmentations: 1", "lesion: DSC and CScore by modalities", "lesion: more was worse",
                        "lesion: all metrics", "lesion: trainers compared",
                        "lesion: what each modality is worth"]  # fmt: skip
    assert find("document.querySelectorAll('table')[1].tBodies[0].rows.length") == 4
    assert "1 failed" in find("document.querySelectorAll('table')[1].tBodies[0].rows[0].textContent")
    pictures = find("[...document.images].map(x => [x.alt, x.complete && x.naturalWidth > 100])")
    assert pictures == [[caption, True] for caption in (
        "lesion: DSC and CScore by modalities", "lesion: paired differences of the cases", "Worst case: a",
        f"Gate weights of {OURS}, fold 0, by layer, code and expert")]  # fmt: skip
    assert find("performance.getEntriesByType('resource').filter(x => !x.name.startsWith('data:')).length") == 0
    assert browser.get_log("browser") == []
    assert len(browser.print_page()) > 10_000

    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})  # fmt: skip
    browser.refresh()
    assert find("document.documentElement.scrollWidth <= window.innerWidth"), "the page does not scroll sideways"
    assert browser.get_log("browser") == []


def outcome(rows, **of_results) -> str:
    results = made(rows, trainers=(BASELINE, OURS), **of_results)
    return verdict(results, comparisons(results))


def test_the_verdict_says_who_is_better_by_how_much_for_how_many_subsets_and_how_sure():
    """Six cases that all differ alike: p is 2 / 2^6, and three times that after Holm's correction over three codes."""
    ours = {T1W: [0.5, 0.51, 0.52, 0.53, 0.54, 0.55], FLAIR: [0.6] * 6, BOTH: [0.7] * 6}
    base = {code: [value - 0.1 for value in values] for code, values in ours.items()}
    said = outcome(of_cases(OURS, ours) + of_cases(BASELINE, base))
    assert said.startswith("MoESD is better than ModalityDropout: ")
    assert re.search(facts("10.0 points higher", "6 cases", "p = 0.031"), said)
    assert said.endswith("It is higher for 3 of 3 subsets (0 significantly).")


def test_the_verdict_names_no_winner_where_cases_are_few_or_differ_in_both_directions():
    few = {T1W: [0.5, 0.6], FLAIR: [0.6, 0.6], BOTH: [0.7, 0.8]}
    less = {T1W: [0.4, 0.5], FLAIR: [0.5, 0.5], BOTH: [0.8, 0.9]}
    said = outcome(of_cases(OURS, few) + of_cases(BASELINE, less))
    assert said.startswith("These cases are too few to say which of MoESD and ModalityDropout is better: ")
    assert re.search(facts("3.3 points higher", "2 cases"), said)
    assert said.endswith("It is higher for 2 of 3 subsets (0 significantly) and lower for 1 (0 significantly).")
    ours = {code: [0.5, 0.6, 0.7, 0.4, 0.5, 0.6] for code in (T1W, FLAIR, BOTH)}
    mixed = {code: [0.6, 0.5, 0.6, 0.5, 0.4, 0.5] for code in (T1W, FLAIR, BOTH)}
    said = outcome(of_cases(OURS, ours) + of_cases(BASELINE, mixed))
    assert said.startswith("The scores do not show which of MoESD and ModalityDropout is better: ")


def test_the_verdict_on_one_trainer_is_its_mean_and_without_any_mean_it_says_why():
    scores = {T1W: [0.2], FLAIR: [0.4], BOTH: [0.6]}
    assert re.search(facts("MoESD", "40.0 %", "1 case"), outcome(of_cases(OURS, scores)))
    rows = of_cases(OURS, {T1W: [0.2], BOTH: [0.6]})
    two = Results(rows, modalities=NAMES, codes=[T1W, BOTH], trainers=(OURS,), dedicated=(), labels=(LABEL,))
    assert "over the 2 scored subsets" in verdict(two, comparisons(two))
    failed = [row(OURS, "a", code, math.nan, failure="broken") for code in (T1W, FLAIR, BOTH)]
    assert re.search(facts("No trainer", "failed"), outcome(failed))
