"""Unpacks the members of a wheel whose paths start with a prefix, without the folders of that prefix.

Usage: unpack.py WHEEL PREFIX FOLDER
"""

import pathlib
import sys
import zipfile

wheel, prefix, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
with zipfile.ZipFile(wheel) as archive:
    members = [name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/")]
    if not members:
        raise SystemExit(f"{wheel} holds nothing under {prefix}")
    for name in members:
        target = folder / name[prefix.rfind("/") + 1:]
        if not target.resolve().is_relative_to(folder.resolve()):
            raise SystemExit(f"{wheel}: {name} points outside the folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(archive.read(name))
