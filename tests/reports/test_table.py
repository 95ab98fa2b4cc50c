"""Tables in Markdown."""

from nnunet_moe.reports.table import markdown_table


def test_a_markdown_table_is_a_line_a_row_below_the_columns():
    assert markdown_table(("", "b"), [("x", "**1**"), ["y", ""]]) == "|  | b |\n| --- | --- |\n| x | **1** |\n| y |  |"
    assert markdown_table(("a",), []) == "| a |\n| --- |"
