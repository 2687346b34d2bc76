"""Entry point of ``python -m app``."""

import sys

from app.commands.main import main

sys.exit(main())
