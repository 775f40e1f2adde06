"""Write the corpus: ``python -m corpus FOLDER`` makes ``FOLDER/READER/SEED`` for every reader."""

import sys
from pathlib import Path

from fuzzing.readers import READERS

if __name__ == "__main__":
    for name, reader in READERS.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir(parents=True)
        reader.make(folder)
