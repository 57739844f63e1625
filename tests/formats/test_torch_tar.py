"""torch's container before 0.1.10. torch still opens it, so it is the judge; only its writer is gone, and stands here."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections import OrderedDict

import pytest
import torch
from cli.samples import Program
from support.builders import read
from support.oracle import assert_same

import gsvckpt as api
from gsvckpt.errors import DamagedError, GsvError

TYPES = {
    torch.float32: "Float",
    torch.float64: "Double",
    torch.float16: "Half",
    torch.int64: "Long",
    torch.int32: "Int",
    torch.int16: "Short",
    torch.uint8: "Byte",
    torch.int8: "Char",
}


class Pickler(pickle._Pickler):  # the C one would go on where `persistent_id` was found once
    """Gives tensors ids, as torch did."""

    def __init__(self, file, ids, protocol):
        super().__init__(file, protocol)
        self.ids = ids

    def persistent_id(self, value):
        return str(self.ids[id(value)]) if isinstance(value, torch.Tensor) else None


def parts(tree, *, views=(), protocol=2):
    """The members of such a file. `views` are parts of storages: (key, key of the root, start, elements). Tensors behind their start lie in them."""
    tensors = [value for value in tree.values() if isinstance(value, torch.Tensor)]
    roots = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}
    keys = {place: 200 + number for number, place in enumerate(roots)}
    storages, described, file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pickle.dump(len(roots), storages, protocol)
    for place, root in roots.items():
        count = root.untyped_storage().nbytes() // root.element_size()
        flat = torch.empty(0, dtype=root.dtype).set_(root.untyped_storage(), 0, (count,))
        pickle.dump((keys[place], "cpu", getattr(torch, f"{TYPES[root.dtype]}Storage")), storages, protocol)
        storages.write(struct.pack("<q", count) + flat.numpy().tobytes())
    pickle.dump(list(views), storages, protocol)
    pickle.dump(len(tensors), described, protocol)
    for number, tensor in enumerate(tensors):
        place, start = keys[tensor.untyped_storage().data_ptr()], tensor.storage_offset()
        for key, root, begin, _ in views:
            if root == place and start >= begin:
                place, start = key, start - begin
        pickle.dump((100 + number, place, getattr(torch, f"{TYPES[tensor.dtype]}Tensor")), described, protocol)
        described.write(struct.pack("<i", tensor.dim()) + bytes(4))
        described.write(struct.pack(f"<{2 * tensor.dim() + 1}q", *tensor.shape, *tensor.stride(), start))
    Pickler(file, {id(tensor): 100 + number for number, tensor in enumerate(tensors)}, protocol).dump(tree)
    system = pickle.dumps({"protocol_version": 1000, "little_endian": True, "type_sizes": {}}, protocol)
    return {"sys_info": system, "pickle": file.getvalue(), "tensors": described.getvalue(), "storages": storages.getvalue()}


def tarred(members, kinds=None):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def sample():
    base = torch.arange(40.0)
    tree = OrderedDict((name, (torch.arange(6) + number).view(2, 3).to(dtype)) for number, (dtype, name) in enumerate(TYPES.items()))
    tree.update(base=base, part=base[4:16].view(3, 4), across=base[20:32].view(3, 4).t(), half=base[::2])
    tree.update(tied=tree["Float"], empty=torch.zeros(0, 2), scalar=torch.tensor(3.0), epoch=3, name="resnet18")
    return tree


@pytest.fixture
def gsvckpt(capsys):
    return Program(capsys)


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "resnet18.pth"
    path.write_bytes(tarred(parts(sample())))
    return path


def test_it_is_read_as_torch_reads_it_and_written_as_todays_zip(gsvckpt, old, tmp_path):
    expected = torch.load(old, weights_only=False)
    assert_same(expected, sample())
    inspected = gsvckpt.json("inspect", old).file
    assert (inspected["container"]["format"], inspected["safety"]["verdict"]) == ("torch-tar", "safe")
    verified = gsvckpt.json("verify", old).file
    assert verified["status"] == "sound"
    assert [(finding["check"], finding["severity"]) for finding in verified["findings"]] == [("container.torch", "info")]
    with pytest.raises(Exception, match="weights_only"):
        torch.load(old)  # as the finding says
    found = torch.load(gsvckpt.json("migrate", old).file["output"])
    assert_same(found, expected)
    assert found["part"].untyped_storage().data_ptr() == found["base"].untyped_storage().data_ptr()
    half = torch.load(gsvckpt.json("convert-fp16", old, "-o", tmp_path / "half.pth").file["output"])
    assert (half["base"].dtype, half["Long"].dtype) == (torch.float16, torch.int64)
    assert_same(dict(api.load_state_dict(old)), {name: value for name, value in expected.items() if isinstance(value, torch.Tensor)})


def test_parts_of_storages_are_found_in_them(gsvckpt, tmp_path):
    base = torch.arange(12.0)
    tree = OrderedDict(base=base, part=base[4:].view(2, 4), inner=base[6:8])
    path = tmp_path / "x.pth"
    path.write_bytes(tarred(parts(tree, views=[(300, 200, 4, 8), (301, 300, 2, 2)])))
    expected = torch.load(path, weights_only=False)  # where a part is a storage of its own, in the memory of the other
    assert all(torch.equal(expected[name], tree[name]) for name in tree)
    assert_same(torch.load(gsvckpt.json("migrate", path).file["output"]), tree)


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_pickles_of_every_protocol_of_its_time(protocol):
    members = parts(OrderedDict(w=torch.ones(2)), protocol=protocol)
    assert read(tarred(members)).root["w"].shape == (2,)


def test_the_order_of_its_members_does_not_matter():
    assert list(read(tarred(dict(reversed(parts(sample()).items())))).root) == list(sample())


def test_another_tar_is_no_checkpoint(gsvckpt, tmp_path):
    (tmp_path / "x.pth").write_bytes(tarred({"voice.pth": b"hello"}))
    run = gsvckpt("inspect", tmp_path / "x.pth")
    assert (run.code, "this is a tar archive, not a checkpoint" in run.err) == (3, True)


@pytest.mark.parametrize("name", ["storages", "tensors", "pickle", "sys_info"])
def test_a_payload_in_any_member_is_never_safe(gsvckpt, tmp_path, name):
    path = tmp_path / "x.pth"
    path.write_bytes(tarred(parts(sample()) | {name: b"cposix\nsystem\n(S'touch ran'\ntR."}))
    assert gsvckpt.json("inspect", path, exit_code=3 if name in ("storages", "tensors") else 0).file["safety"]["verdict"] == "unsafe"
    assert gsvckpt.json("verify", path, exit_code=1).file["safety"]["verdict"] == "unsafe"


# --- hostile files -------------------------------------------------------------------------------------------------------------------------------


def test_a_member_that_appears_twice_is_refused():
    members = parts(sample())
    with pytest.raises(DamagedError, match="appears twice"):
        read(tarred([*members.items(), ("pickle", b"\x80\x02}q\x00.")]))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_file_is_refused(kind):
    with pytest.raises(GsvError):
        read(tarred(parts(sample()), {"storages": kind}))


def test_a_header_that_renames_the_next_member_is_refused():
    members = list(parts(sample()).items())
    for at in range(4):
        with pytest.raises(GsvError):
            read(tarred([*members[:at], ("x", b"17 path=storages\n"), *members[at:]], {"x": tarfile.XHDTYPE}))


@pytest.mark.parametrize("cut", [1, 600, 2_000, 5_000])
def test_a_file_that_ends_early_is_damaged(cut):
    data = tarred(parts(sample())).rstrip(b"\0")
    with pytest.raises(GsvError):
        read(data[:-cut])


def test_a_storage_that_announces_more_than_there_is():
    members = parts(OrderedDict(w=torch.ones(2)))
    at = members["storages"].index(struct.pack("<q", 2) + struct.pack("<2f", 1, 1))
    for numel in (3, 1 << 40, -1, 1 << 62):
        storages = members["storages"][:at] + struct.pack("<q", numel) + members["storages"][at + 8 :]
        with pytest.raises(GsvError):
            read(tarred(members | {"storages": storages}))


def test_a_tensor_that_reaches_outside_its_storage():
    members = parts(OrderedDict(w=torch.ones(2)))
    good = struct.pack("<3q", 2, 1, 0)
    assert good in members["tensors"]
    for bad in ((3, 1, 0), (2, 2, 0), (2, 1, 1), (-2, 1, 0), (2, -1, 0), (1 << 62, 1, 0)):
        with pytest.raises(DamagedError):
            read(tarred(members | {"tensors": members["tensors"].replace(good, struct.pack("<3q", *bad))}))


@pytest.mark.parametrize("views", [[(300, 200, 8, 8)], [(300, 999, 0, 1)], [(300, 200, -1, 1)], [(300, 200)], [(300, 200, 0.5, 1)]])
def test_a_part_that_its_storage_does_not_hold(views):
    members = parts(OrderedDict(w=torch.ones(12)))
    storages = members["storages"][: -len(pickle.dumps([], 2))] + pickle.dumps(views, 2)
    with pytest.raises(DamagedError):
        read(tarred(members | {"storages": storages}))


@pytest.mark.parametrize("name", ["storages", "tensors", "pickle"])
@pytest.mark.parametrize("data", [b"", b"\x80\x02K", b"\x80\x02J\xff\xff\xff\x7f.", b"\x80\x02U\x03999Q."])
def test_members_that_hold_something_else_are_damage(name, data):
    if (name, data[2:3]) == ("pickle", b"J"):
        assert read(tarred(parts(sample()) | {name: data})).root == 0x7FFFFFFF  # a pickle may hold any value
        return
    with pytest.raises(GsvError):
        read(tarred(parts(sample()) | {name: data}))
