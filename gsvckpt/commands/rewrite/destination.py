"""Decide where outputs are written, and refuse places that must not be overwritten."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gsvckpt.errors import GsvError, OutputError, RefusedError, UsageError
from gsvckpt.files.obstacles import file_obstacle, folder_obstacle
from gsvckpt.files.paths import folder_of, is_folder, is_url, is_writable, join, name_of
from gsvckpt.files.temporary import sweep
from gsvckpt.sovits.names import resumes, shorten
from gsvckpt.sovits.runs import lasting_folder

SALVAGED = "salvaged"  # the word that stays in names wherever a file may not be whole
_TORCH = (".pth", ".ckpt", ".pt", ".bin", ".th")
_EXTENSIONS = (*_TORCH, ".safetensors", ".json")  # what a name loses when its file becomes one of another form


@dataclass(frozen=True, slots=True)
class Destination:
    """`word` stands for the command in default names: `x.fp16.pth`."""

    word: str
    output: str | None = None
    in_place: bool = False
    force: bool = False
    dry_run: bool = False
    check: bool = False

    @property
    def writes(self) -> bool:
        return not (self.dry_run or self.check)

    def assign(self, sources: Sequence[str]) -> list[str]:
        """The output of each source. Raises UsageError when options contradict each other or two sources would share one output."""
        plain = [_without_slash(source) for source in sources]
        self._refuse_urls(sources)
        if self.in_place and self.output is not None:
            raise UsageError("--in-place and --output cannot be combined")
        if self.output is None:
            outputs = [source if self.in_place else _lasting_place(source, self.word) for source in plain]
        elif len(sources) > 1 or self.output.endswith(("/", os.sep)) or is_folder(self.output):
            if not is_url(self.output) and os.path.exists(self.output) and not os.path.isdir(self.output):
                raise UsageError(f"{self.output} is a file, but several sources need a folder", where="--output")
            self._refuse_one_name(sources)
            names = [name_of(name_beside(source, self.word) if self.word == SALVAGED else source) for source in plain]
            outputs = [join(self.output, name) for name in names]
        else:
            outputs = [self.output]
        seen: dict[str, str] = {}
        for source, output in zip(sources, outputs, strict=True):
            other = seen.setdefault(output if is_url(output) else os.path.normcase(os.path.realpath(output)), source)
            if other != source:
                raise UsageError(f"{other} and {source} would both be written to {output}", hint="give each its own run with -o PATH")
        return outputs

    def notes(self, source: str, output: str, listed_in: str) -> tuple[str, ...]:
        """What is to be said of where an output stands that no option placed. `listed_in`: the folder in which GPT-SoVITS would list it."""
        if self.output is not None or self.in_place or is_url(source):
            return ()
        folder = folder_of(_without_slash(source))
        lasting = lasting_folder(folder)
        said = []
        if folder_of(output) == lasting != folder:
            said.append("is written one folder up, because GPT-SoVITS removes all files beside the source at its next save (`save only latest`)")
        if listed_in:
            said.append(f"GPT-SoVITS looks for such weights in its {listed_in}: -o {listed_in}/ writes them there")
        return tuple(said)

    def _refuse_one_name(self, sources: Sequence[str]) -> None:
        """Raise UsageError where several sources would go to a folder that is called like one file."""
        chosen = self.output or ""
        extension = os.path.splitext(chosen)[1].lower()
        if len(sources) > 1 and extension in _EXTENSIONS and not chosen.endswith(("/", os.sep)) and not is_folder(chosen):
            why = f"{chosen} is the name of one file, but there are {len(sources)} sources"
            raise UsageError(why, where="--output", hint="name a folder that ends in a slash, or give each source its own run")

    def _refuse_urls(self, sources: Sequence[str]) -> None:
        """Raise UsageError for what cannot be done with URLs."""
        if self.in_place and any(map(is_url, sources)):
            raise UsageError("replaces only files of this machine, not URLs", where="--in-place", hint="-o PATH writes another")
        written = [*filter(is_url, sources)] if self.output is None and self.writes else [self.output or ""]
        only_read = [url for url in written if is_url(url) and not is_writable(url)]
        if only_read:
            what = "cannot be written" if self.output else "has no room for an output beside it"
            why = f"{only_read[0].partition('://')[0]}:// can only be read, so {only_read[0]} {what}"
            raise UsageError(why, where="--output", hint="name a file or folder with -o PATH")

    def named(self, source: str, output: str, name: str | None, extension: str | None) -> str:
        """The output under the name and the extension that suit what it will hold, where only its folder was chosen; a name that was chosen stays.

        A torch file that becomes a safetensors file needs no word in its name: the extension tells them apart.
        """
        if self.in_place or self.output == output:
            return output
        folder, chosen = folder_of(output), name_of(output)
        needs_word = self.output is None
        if name is not None and not resumes(name) and self.word != SALVAGED:
            chosen, needs_word = name, False
        if extension is None or os.path.splitext(chosen)[1].lower() == extension:
            return join(folder, shorten(chosen))
        if needs_word:
            chosen = name_of(_without_slash(source))
        stem, before = os.path.splitext(chosen)
        chosen = (stem if before.lower() in _EXTENSIONS else chosen) + extension
        tells = self.word != SALVAGED and before.lower() in _TORCH and extension == ".safetensors"
        if self.output is None and (resumes(chosen) or (needs_word and not tells)):
            chosen = name_beside(chosen, self.word)
        return join(folder, shorten(chosen))

    def obstacle(self, source: str, output: str, others: Collection[str] = (), *, folder: bool = False) -> GsvError | None:
        """Why `output` must not or cannot be written, as far as that shows before any work is done. `others` are files that must stay as well;
        `folder` says that it will be a folder, which replaces nothing.
        """
        if is_url(output):
            return self._obstacle_at(source, output, others, folder=folder)
        if not folder and (irregular := file_obstacle(output)) is not None:
            return irregular
        if os.path.exists(output) and any(os.path.exists(other) and os.path.samefile(other, output) for other in others):
            return RefusedError("is one of the files being read", path=output, hint="write elsewhere with -o PATH")
        if self.in_place:
            if not self.force and os.path.exists(source) and not os.stat(source).st_mode & stat.S_IWUSR:
                return RefusedError("is read-only", path=output, hint="--force replaces it all the same; -o PATH writes elsewhere")
            return None
        if os.path.exists(source) and os.path.exists(output) and os.path.samefile(source, output):
            return RefusedError("is the source itself", path=output, hint="--in-place replaces it; -o PATH writes elsewhere")
        if folder and self.output == output and os.path.splitext(output)[1].lower() in _EXTENSIONS:
            why = f"{output} is the name of one file, but --max-shard-size writes several files into a folder"
            return UsageError(why, where="--output", hint="name a folder, or leave out --max-shard-size")
        if folder and (taken := folder_obstacle(output)) is not None:
            return taken
        if not folder and not self.force and os.path.exists(output):
            return RefusedError("exists already", path=output, hint="--force overwrites it; -o PATH writes elsewhere")
        parent = os.path.dirname(output)
        if self.output == output and parent and not os.path.isdir(parent):
            return OutputError(f"there is no folder {parent}", path=output, hint="make it first")
        return None

    def _obstacle_at(self, source: str, url: str, others: Collection[str], *, folder: bool) -> GsvError | None:
        """Why a URL must not or cannot be written."""
        if url in others:
            return RefusedError("is one of the files being read", path=url, hint="write elsewhere with -o PATH")
        if url == source:
            return RefusedError("is the source itself", path=url, hint="-o PATH writes elsewhere")
        if folder:
            return UsageError("several files can only be written to a folder on this machine", where="--max-shard-size", path=url, hint="-o FOLDER")
        from gsvckpt.files.upload import find_obstacle  # files of this machine need nothing of it

        return find_obstacle(url, overwrite=self.force)

    @contextmanager
    def prepared(self, source: str, output: str, others: Collection[str] = (), *, folder: bool = False) -> Iterator[None]:
        """Refuse obstacles (see `obstacle`), and make the folder of an `-o FOLDER/`.

        When what is done inside fails, folders that were made for it go again.
        """
        if not is_url(output):
            sweep(Path(os.path.realpath(output)).parent)  # also where something stands in the way
        obstacle = self.obstacle(source, output, others, folder=folder)
        if obstacle is not None:
            raise obstacle
        made = _missing_folders(self.output) if self.output is not None and self.output != output else []
        try:
            if made:
                _make_folder(made[0])
            yield
        except BaseException:
            for parent in made:
                with suppress(OSError):  # not empty, or never made
                    os.rmdir(parent)
            raise

    @contextmanager
    def folder(self, outputs: Collection[str]) -> Iterator[None]:
        """The folder of an `-o FOLDER/` is there while several `outputs` are written at once, and goes again where none was."""
        made = _missing_folders(self.output) if self.output is not None and self.output not in outputs and self.writes else []
        try:
            if made:
                with suppress(OutputError):  # every file will say so for itself
                    _make_folder(made[0])
            yield
        finally:
            for parent in made:
                with suppress(OSError):  # not empty, or never made
                    os.rmdir(parent)


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be made: {error.strerror}", path=path, hint="write elsewhere with -o PATH") from error


def _missing_folders(path: str) -> list[str]:
    """`path` and the folders above it, up to the first that is there."""
    missing: list[str] = []
    if is_url(path):  # stores of objects have no folders
        return missing
    path = path.rstrip(f"/{os.sep}") or path
    while path and not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def _without_slash(source: str) -> str:
    """A folder's path that ends in its name."""
    bare = source.rstrip(f"/{os.sep}") or source
    if is_url(source):
        return bare
    return os.path.abspath(bare) if os.path.basename(bare) in ("", ".", "..") else bare


def _lasting_place(source: str, word: str) -> str:
    """The output of a source, beside it or where it lasts. The path of the source decides, and nothing that is written in the file."""
    beside = name_beside(source, word)
    return beside if is_url(beside) else join(lasting_folder(folder_of(beside)), name_of(beside))


def name_beside(source: str, word: str) -> str:
    """`x.pth` -> `x.fp16.pth`; but `G_16.pth` -> `fp16-G_16.pth`, as GPT-SoVITS would take `G_16.fp16.pth` for a checkpoint to resume from."""
    folder, name = folder_of(source), name_of(source)
    stem, extension = os.path.splitext(name)
    named = f"{stem}.{word}{extension}"
    return join(folder, shorten(f"{word}-{name}" if resumes(name) or resumes(named) else named))
