"""`python -m nbhelpers`: see `nbhelpers.notebook.command_line`."""

import signal
import sys

from nbhelpers.notebook.command_line import main

if __name__ == "__main__":
    # A cancelled job gets SIGTERM: stop the notebook as Ctrl-C does, instead of leaving it behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
