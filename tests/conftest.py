"""Settings for the whole test session, made before Numba loads its threads."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
