"""`crysgen` as it is installed, with the model of the tests, for tests that stop it by signals.

python tests/crysgen_process.py SECONDS_TO_THE_FIRST_CHECKPOINT train tiny ...
"""

import sys

import tiny_model

from crysgen.entry import main
from crysgen.training.interruption import SaveTimes

tiny_model.register()
SaveTimes.FIRST = float(sys.argv.pop(1))
main()
