"""The shelf: one kind of checkpoint, one identity, one seal, and files that are whole or not there."""

from solset.storage._checkpoint import Checkpoint, Probe, Sealed, check_place, damaged, warn_of_versions
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
    partial_path,
    plain_name,
    put_in_place,
    read_file,
    remove_file,
    replace_file,
)
from solset.storage._identity import Identity, package_versions
from solset.storage._seal import FORMAT, SealError, is_sealed, parsed_json, tensor_bytes

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
    "package_versions",
    "parsed_json",
    "partial_path",
    "plain_name",
    "put_in_place",
    "read_file",
    "remove_file",
    "replace_file",
    "tensor_bytes",
    "warn_of_versions",
]
