"""CRC-32 at the speed of memory: ISA-L where its wheel exists (38 GB/s where measured), else zlib (2.6 GB/s). Same results."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this processor
    from zlib import crc32

__all__ = ["crc32"]
