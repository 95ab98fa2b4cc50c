"""Every command of the tutorials runs, on shortened trainings, and prints what the pages show."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tutorial_pages import RUN, blocks_of, not_printed, printed_by_block, script_of

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted([*(DOCS / "tutorials").glob("*.md"), DOCS / "quick_start.md"])
SHORTER = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
WRITE_PLANS = "file.write_text(json.dumps(plans, indent=4))\n"
NARROWER = """
for configuration in plans["configurations"].values():
    if "architecture" in configuration and len(configuration["patch_size"]) == 3:
        network = configuration["architecture"]["arch_kwargs"]
        network["features_per_stage"] = [4 + 2 * stage for stage in range(network["n_stages"])]
"""
"""Goes before `WRITE_PLANS`: a 3D network as wide as nnU-Net plans it takes most of a tutorial's time."""


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_and_prints_what_its_page_shows(demo_run, preloaded_python, tmp_path, page):
    shutil.copytree(demo_run.parent, tmp_path, dirs_exist_ok=True)
    blocks = blocks_of(page)
    script = re.sub(
        r"^nnunet_moe demo\b", f"cat {demo_run.with_suffix('.txt').name}", script_of(blocks), flags=re.MULTILINE
    )
    script = script.replace("seeds: [0, 1]", "seeds: [0]")
    script = script.replace(WRITE_PLANS, NARROWER + WRITE_PLANS)
    for key, value in SHORTER.items():
        script = re.sub(rf"({key}\"?: )\d+", rf"\g<1>{value}", script)
    folders = [str(preloaded_python.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(folders)}
    command = ["bash", "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
    printed = printed_by_block(done.stdout.replace(str(tmp_path), "/home/me"))
    for number, (before, block) in enumerate(itertools.pairwise(blocks)):
        if block.language == "text" and before.language in RUN:
            assert not_printed(block.text, printed[number]) == [], printed[number]
