"""The shelf: one kind of checkpoint, one identity, one seal, and files that are whole or not there."""

from solset.storage._checkpoint import (
    Checkpoint,
    Probe,
    Sealed,
    check_place,
    damaged,
    matched,
    warn_of_versions,
)
from solset.storage._files import (
    PARTIAL,
    has_entry,
    has_file,
    has_folder,
    hash_bytes,
    hash_file,
    is_link,
    list_folder,
    make_folder,
    plain_name,
    read_file,
    remove_file,
    replace_file,
    replacing,
)
from solset.storage._identity import Identity, package_versions
from solset.storage._seal import FORMAT, SealError, is_sealed, tensor_bytes

__all__ = [
    "FORMAT",
    "PARTIAL",
    "Checkpoint",
    "Identity",
    "Probe",
    "SealError",
    "Sealed",
    "check_place",
    "damaged",
    "has_entry",
    "has_file",
    "has_folder",
    "hash_bytes",
    "hash_file",
    "is_link",
    "is_sealed",
    "list_folder",
    "make_folder",
    "matched",
    "package_versions",
    "plain_name",
    "read_file",
    "remove_file",
    "replace_file",
    "replacing",
    "tensor_bytes",
    "warn_of_versions",
]
