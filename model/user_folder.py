"""A folder of one user of a machine, for small files that its processes share and that may outlive them."""

import os
import tempfile
from pathlib import Path

from blm.model.errors import UserError


def user_folder(name: str) -> Path:
    """`NAME-UID` among the temporary files, made where it is missing; nobody else may look into it.

    UserError if it belongs to somebody else: what lies in it could then be anything.
    """
    place = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise UserError(f"{place} belongs to somebody else; set TMPDIR to a folder of your own")
    return place
