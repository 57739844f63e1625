"""What is to be done with the results of verify, and which wishes cannot be meant together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gsvckpt.commands.verify import checksum_files
from gsvckpt.commands.verify.findings import CHECKS, family, is_damage
from gsvckpt.commands.verify.manifest import NAME
from gsvckpt.commands.verify.result import Options
from gsvckpt.engine.open import index_of
from gsvckpt.errors import UsageError
from gsvckpt.files.obstacles import file_obstacle
from gsvckpt.files.paths import require_local

RECORDED = frozenset({"xxh3_128", "content", "sha256", "md5"})  # digests that a manifest keeps


class Keep(NamedTuple):
    """What is to be done with the results."""

    record: bool
    per_tensor: bool
    forget: bool
    backup: str | None
    restore_from: str | None
    listing: str | None
    force: bool

    @property
    def asked(self) -> list[str]:
        """The options that act on files for being sound or damaged."""
        options = {"--record": self.record, "--backup": self.backup, "--restore-from": self.restore_from, "--write-checksums": self.listing}
        return [option for option, value in options.items() if value]

    def require_room(self, files: Iterable[str], roots: Mapping[str, str]) -> None:
        """Raise RefusedError where something that is no regular file stands in the place of a file to write, before anything is read."""
        files = list(files)
        places = [self.listing] if self.listing is not None else []
        if self.record:
            places += [os.path.join(folder, NAME) for folder in dict.fromkeys(map(os.path.dirname, files))]
        if self.backup is not None:
            if os.path.exists(self.backup) and not os.path.isdir(self.backup):
                raise file_obstacle(self.backup) or UsageError("is no folder", where="--backup", path=self.backup)
            from gsvckpt.commands.verify.backup import place_for  # most runs copy nothing

            copies = [os.path.join(self.backup, place_for(path, roots.get(path))) for path in files]
            places += [*copies, *(os.path.join(folder, NAME) for folder in dict.fromkeys(map(os.path.dirname, copies)))]
        for place in places:
            obstacle = file_obstacle(place)
            if obstacle is not None:
                raise obstacle

    @property
    def digests(self) -> frozenset[str]:
        """Digests that these need."""
        wanted = set(RECORDED) if self.record else {"xxh3_128"} if self.backup is not None else set()
        return frozenset(wanted | ({checksum_files.format_for(self.listing)} if self.listing is not None else set()))

    def refuse_contradictions(self, options: Options, *, manifest: str | None, checksums: str | None, paths: Sequence[str]) -> None:
        """Raise UsageError for options that cannot be meant together, or that would let damage pass for soundness."""
        if self.asked:
            require_local([*paths, *filter(None, (self.backup, self.restore_from, self.listing))], self.asked[0])
        needs_bytes = [option for option in self.asked if option != "--restore-from"]
        needs_bytes += ["--against"] if options.against is not None else []
        needs_bytes += ["--checksums"] if checksums is not None else []
        if options.quick and needs_bytes:
            raise UsageError("needs the bytes, which --quick does not read", where=needs_bytes[0])
        answered = {"against": options.against is not None, "checksum": checksums is not None, "resume": options.resume}
        if not any(answered.get(family(check), True) for check in options.checks):
            needed = {"against": "--against OTHER", "checksum": "--checksums FILE", "resume": "--resume"}
            raise UsageError("leaves nothing to check", where="--checks", hint=f"add {needed[family(min(options.checks))]}")
        for option, family_of, asked in (
            ("--against", "against", options.against is not None),
            ("--checksums", "checksum", checksums is not None),
            ("--resume", "resume", options.resume),
        ):
            if asked and not any(family(check) == family_of for check in options.checks):
                raise UsageError(f"asks for {family_of}.* checks, which --checks leaves out", where=option)
        if self.asked and any(is_damage(check) and check not in options.checks for check in CHECKS):
            raise UsageError("must know whether a file is damaged, so --checks may leave out none of the checks for that", where=self.asked[0])
        for option, given in (("--per-tensor", self.per_tensor), ("--forget", self.forget)):
            if given and not self.record:
                raise UsageError("goes with --record", where=option)
        if self.record and manifest is not None:
            raise UsageError("writes gsvckpt.toml beside the files, so it does not go with --manifest", where="--record")
        if options.against is not None and (len(paths) != 1 or (os.path.isdir(paths[0]) and index_of(paths[0]) is None)):
            raise UsageError("compares one file with another, so give one PATH", where="--against")
