"""What earlier versions left in a run directory that this one would not have made."""

from __future__ import annotations

import json

from hpcscale.atomic import read_done
from hpcscale.errors import DataError
from hpcscale.pipeline.sweep import Sweep

#: How earlier versions began the reason of a record that stood for the rest of a damaged file.
_DAMAGED = "the file is damaged or cut off"


def refuse_outdated(sweep: Sweep) -> None:
    """Raises HpcscaleError where a sweep would go on from results that are wrong."""
    _stores_of_damaged_files(sweep)


def _stores_of_damaged_files(sweep: Sweep) -> None:
    """Where the damage is among the first 20 broken records, which a manifest keeps."""
    for role, task in sweep.pipeline.stores.items():
        folder = sweep.run_dir / task.id
        if read_done(folder, task.key) is None:
            continue
        manifest = json.loads((folder / "store" / "manifest.json").read_text(encoding="utf-8"))
        for broken in manifest.get("read", {}).get("first_broken", []):
            if broken["reason"].startswith(_DAMAGED):
                raise DataError(
                    f"data.{role} was read from a damaged file by an earlier version of hpcscale: "
                    f"{broken['place']}: {broken['reason']}. The documents after this place are "
                    f"missing in {folder}, and in all that was made from it. Fetch the file again, "
                    "and start another run directory with --set name=NAME"
                )
