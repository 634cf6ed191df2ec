"""Converts a reward's published checkpoint that lies here, as `pipeline.py fetch --rewards` does with what it brings.

`python -m tools.convert_reward REWARD CHECKPOINT FOLDER --sha256 HEX` compares the checkpoint's checksum with the one
that its publisher states or that you noted; see `diffalign/rewards/parts/convert.py`.
"""

import argparse
import sys
from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.rewards.parts.convert import CONVERTERS, convert


def main() -> None:
    """Converts what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reward", choices=CONVERTERS)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sha256", required=True, help="the checkpoint's checksum")
    asked = parser.parse_args()
    try:
        convert(asked.reward, asked.checkpoint, asked.folder, asked.sha256)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
