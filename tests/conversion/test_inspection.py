"""What an inspection of a checkpoint says."""

import json
import subprocess
import sys

import numpy as np

from diptych.conversion import inspect_checkpoint
from tests.conversion import checkpoints
from tests.conversion.tiny import edit_config, rewrite


def test_an_inspection_lists_what_is_there(tmp_path):
    checkpoints.write(tmp_path, "BertForPreTraining")
    edit_config(tmp_path, architectures=["TFBertThing", "BertForMaskedLM"])
    rewrite(tmp_path, lambda tensors: tensors | {"bert.embeddings.position_ids": np.arange(19)[None]})
    inspection = inspect_checkpoint(tmp_path)
    shapes = checkpoints.shapes("BertForPreTraining")
    assert inspection.architecture == "BertForMaskedLM"
    assert inspection.config_class == "BertConfig"
    assert inspection.parameters == sum(int(np.prod(shape)) for shape in shapes.values())
    assert inspection.nbytes == 4 * inspection.parameters + 8 * 19
    assert inspection.dtypes == {"float32": len(shapes), "int64": 1}
    assert {tensor.name: tensor.shape for tensor in inspection.tensors if tensor.role == "parameter"} == shapes
    assert json.loads(inspection.to_json())["files"] == {
        "model.safetensors": (tmp_path / "model.safetensors").stat().st_size
    }


def test_an_inspection_needs_no_framework(source):
    code = (
        "import sys\n"
        "from diptych.conversion import inspect_checkpoint\n"
        "inspect_checkpoint(sys.argv[1])\n"
        "print([name for name in ('jax', 'torch') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(source)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
