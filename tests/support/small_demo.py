"""The demo at a size of seconds, as a process: ``python -m support.small_demo FOLDER``."""

import dataclasses
import sys

from solset.paper._digits import DigitsRun, DigitsSettings
from solset.paper._digits_report import digits_experiment
from solset.reports._run_folder import RunFolder

SMALL = DigitsSettings(
    points=10, moved=3, hidden=(32, 16), steps=(20,), sizes=(0.005,), nearest_at=(0.005,), samples=2
)

if __name__ == "__main__":
    opened = RunFolder.open(sys.argv[1], settings=dataclasses.asdict(SMALL), on_existing="resume")
    digits_experiment(DigitsRun(SMALL, opened, progress=False))
