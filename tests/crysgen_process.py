"""`crysgen` as a program of its own, with the model of the tests, for tests that kill it.

python tests/crysgen_process.py SECONDS_TO_THE_FIRST_CHECKPOINT train tiny ...
"""

import sys

import tiny_model

from crysgen.cli import main
from crysgen.training.interruption import SaveTimes

tiny_model.register()
SaveTimes.FIRST = float(sys.argv[1])
main(sys.argv[2:], prog_name="crysgen")
