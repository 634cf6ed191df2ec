"""Pick-a-Pic's test prompts (Kirstain et al. 2023, arXiv 2305.01569): the 500 captions of v2's `test_unique`."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.data.prompts.prompt_set import Prompt, check

REMEDY = f"Fetch it: {COMMAND} fetch pickapic_test"
COUNT = 500


def load(folder: Path) -> list[Prompt]:
    """Returns the captions of `test_unique-*.parquet`, without reading their images.

    Raises UserError where the files are missing or damaged, or have another number of rows.
    """
    files = sorted(folder.glob("*test_unique-*.parquet"))
    try:
        captions = [text for file in files for text in pq.read_table(file, columns=["caption"])["caption"].to_pylist()]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{folder}: its Parquet files can't be read: {error}. {REMEDY}") from None
    check(folder, {"prompts": len(captions)}, {"prompts": COUNT}, REMEDY)
    return [Prompt(str(text), "pickapic_test") for text in captions]
