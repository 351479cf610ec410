"""`python -m tgvlm_jax VERB` is the same as `tgvlm VERB`."""

import sys

from tgvlm_jax.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
