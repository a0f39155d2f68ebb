"""Run the command line as `python -m provenlm.cli`, like the script `provenlm`."""

import sys

from provenlm.cli.main import main

sys.exit(main())
