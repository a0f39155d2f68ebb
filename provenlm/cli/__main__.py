"""Run the command line as `python -m provenlm.cli`, the same as the console script `provenlm`."""

import sys

from provenlm.cli.main import main

sys.exit(main())
