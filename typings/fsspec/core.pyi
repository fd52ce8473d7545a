"""Addresses of file systems."""

from fsspec import AbstractFileSystem

def url_to_fs(url: str) -> tuple[AbstractFileSystem, str]: ...
