r"""Rules that rename, drop, keep and cast the tensors of a state dict, read from a TOML file or from one of the presets beside this module.

    [[rule]]
    rename = '^module\.(.*)'     # a regular expression, with the meaning of re.sub
    to = '\1'
    [[rule]]
    drop = ["enc_q.*", "*.tmp"]  # globs over the whole name; likewise for keep and cast
    [[rule]]
    keep = "dec.*"               # whatever does not match goes
    [[rule]]
    cast = "*.norm.*"
    dtype = "float32"            # or float16, bfloat16
    [[rule]]
    strip-prefix = "module."     # once, from those names that begin so
    [[rule]]
    add-prefix = "model."
    [[rule]]
    preset = "ddp"               # the rules of that preset, in this place

Each rule works on the names that the ones before it left. Two `keep` in a row filter twice, so that only what matches both stays; one `keep` with a
list keeps what matches any of it. A cast is remembered through later renaming, and the last one that matches counts.
"""

from gsvckpt.transforms.rules.apply import Renaming, Rule, apply_rules
from gsvckpt.transforms.rules.read import read_rules

__all__ = ["Renaming", "Rule", "apply_rules", "read_rules"]
