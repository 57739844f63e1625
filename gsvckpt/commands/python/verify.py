"""gsvckpt.verify"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

from gsvckpt.commands.python.arguments import AnyPath, Paths, Texts, path_or_none, paths_of, require_choice, resources_of, texts_of
from gsvckpt.commands.verify.after import AfterVerify
from gsvckpt.commands.verify.run import VerifyRequest, VerifyResult, prepare, verify_all
from gsvckpt.files.progress import Silent


def verify(
    paths: Paths,
    *,
    quick: bool = False,
    checks: Texts | None = None,
    layout: str = "auto",
    against: AnyPath | None = None,
    resume: bool = False,
    checksums: AnyPath | None = None,
    manifest: AnyPath | None = None,
    record: bool = False,
    per_tensor: bool = False,
    forget: bool = False,
    backup: AnyPath | None = None,
    restore_from: AnyPath | None = None,
    write_checksums: AnyPath | None = None,
    force: bool = False,
    fail_on: Literal["error", "warning"] = "error",
    recursive: bool = False,
    device: str = "cpu",
    jobs: int | None = None,
    cluster: str | None = None,
) -> VerifyResult:
    """Check that checkpoints are sound, and say exactly what is wrong if not, as `gsvckpt verify` does.

    Damage is a finding, and nothing is raised for it. Raises GsvError for options that exclude each other, and where no file could be opened at all.
    """
    require_choice(fail_on, ("error", "warning"), "--fail-on")
    listed = ",".join(texts_of(checks)) if checks is not None else None
    asked = VerifyRequest(
        tuple(paths_of(paths)),
        quick,
        listed,
        layout,
        path_or_none(against),
        resume,
        path_or_none(checksums),
        path_or_none(manifest),
        recursive,
        fail_on,
    )
    after = AfterVerify(record, per_tensor, forget, path_or_none(backup), path_or_none(restore_from), path_or_none(write_checksums), force)
    found = verify_all(prepare(asked, after, resources_of(device, jobs, cluster)), lambda _: nullcontext(Silent()))
    failed = (*found.errors, *found.unopened)
    if failed and len(found.unopened) == len(found.files):
        raise failed[0]
    return found
