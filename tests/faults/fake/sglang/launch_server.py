"""A decoy under a server's own command line: ``python -m sglang.launch_server --port N``."""

import os

from tests.faults.decoy import stand

if __name__ == "__main__":
    stand(os.environ["FAULTS_DECOY"])
