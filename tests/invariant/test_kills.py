"""A short version of `kills.py`: a run that is killed now and then ends in the same weights, optimizer state and metrics."""

import os
import re
import subprocess
import sys
from pathlib import Path


def test_a_run_that_is_killed_ends_like_one_that_is_not() -> None:
    script = Path(__file__).with_name("kills.py")
    # A process of its own, for it forks, and the threads of this one would be missing in its children.
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "6"], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ kills in .* [1-9]\d* replacing the model", done.stdout), done.stdout
    assert "every run ended in the same weights, optimizer state and metrics" in done.stdout
