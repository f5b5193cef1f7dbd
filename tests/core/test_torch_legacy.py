"""Files of PyTorch before version 1.6; what their pickles may hold is tested with archives."""

import numpy as np
import pytest

from diptych.core.checkpoint.torch_legacy import is_legacy, read_torch_legacy
from diptych.core.errors import CheckpointError
from tests.core.torch_files import FLOATS, imported, legacy, pickled, storage, tensor, value, write_tensor

MEMORY = {"0": (6, FLOATS.tobytes())}


def written(path, content):
    path.write_bytes(content)
    return path


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        read_torch_legacy(path)
    return str(caught.value)


def test_tensors_are_views_of_the_mapped_file(tmp_path):
    entries = {"w": tensor(storage(rest=b"N")), "t": tensor(storage(rest=b"N"), (3, 2), (1, 3))}
    entries["other"] = tensor(storage("second", 2, "torch.HalfStorage", rest=b"N"), (2,), (1,))
    halves = np.array([1, -2], np.float16)
    content = legacy(pickled(entries), {"second": (2, halves.tobytes()), **MEMORY})  # in any order
    path = written(tmp_path / "w.bin", content)
    assert is_legacy(path) and not is_legacy(write_tensor(tmp_path / "zip.bin"))
    found = read_torch_legacy(path)
    np.testing.assert_array_equal(found["w"].read(), FLOATS.reshape(2, 3))
    np.testing.assert_array_equal(found["t"].read(), FLOATS.reshape(2, 3).T)
    np.testing.assert_array_equal(found["other"].read(), halves)
    assert np.shares_memory(found["w"].read(), found["w"].read())
    assert (found["w"].origin, found["other"].dtype) == (str(path), np.float16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            legacy(pickled({"w": tensor()}), MEMORY, version=1002),
            "is in version 1002 of PyTorch's old format, but only",
        ),
        (legacy(pickled({"w": imported("os.system") + b")R"}), MEMORY), "its pickle asks for os.system, which diptych"),
        (
            legacy(pickled({"w": tensor(storage(rest=value(("1", 0, 3))))}), MEMORY),
            "its pickle has a storage that is a part of another one, which diptych does not read",
        ),
        (
            legacy(pickled({"w": tensor()}), MEMORY, keys=["1"]),
            "lists the storages ['1'], but its tensors are in ['0']",
        ),
        (legacy(pickled({"w": tensor()}), MEMORY, keys=["0", "0"]), "lists the storages ['0', '0'], but its"),
        (legacy(pickled({"w": tensor()}), MEMORY, keys=[("0",)]), "lists the storages <list>, but its"),
        (legacy(pickled({"w": tensor()}), {"0": (7, FLOATS.tobytes())}), "storage 0 should have 6 elements at byte "),
        (legacy(pickled({"w": tensor(storage(count=2**60))}), {"0": (2**60, b"")}), "should have 1152921504606846976 "),
        (legacy(pickled({"w": tensor()}), {"0": (6, bytes(25))}), "its last storage ends at byte "),
        (legacy(pickled({"w": tensor(offset=1)}), MEMORY), "tensor 'w' ends at byte 28 of its storage, which has 24"),
        (
            legacy(pickled({"w": tensor(), "v": tensor(storage(count=5), (5,), (1,))}), {"0": (5, bytes(20))}),
            "tensor 'w' needs 24 bytes of storage 0, which has 20 bytes",
        ),
    ],
)
def test_refusals(tmp_path, content, message):
    path = written(tmp_path / "w.bin", content)
    assert refused(path).startswith(f"{path}: ") and message in refused(path)


def test_any_truncation_and_any_flipped_bit_is_an_error_or_changes_only_values(tmp_path):
    path, content = tmp_path / "w.bin", legacy(pickled({"w": tensor()}), MEMORY)
    for length in range(1, len(content), 7):
        refused(written(path, content[:length]))
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        try:
            found = read_torch_legacy(written(path, changed))
        except CheckpointError:
            continue
        assert all(source.read().nbytes <= len(content) for source in found.values())
