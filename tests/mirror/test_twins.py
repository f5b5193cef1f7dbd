"""The two backends are the same text but for a few words: every file has its twin, and the models' syntax trees agree.

That a model's classes, attributes, methods, parameters, defaults, shapes and docstrings stand in the same order in both
files follows from equal trees.
"""

import ast
import difflib
import pkgutil
from pathlib import Path

import pytest

BACKENDS = Path(__file__).parents[2] / "diptych" / "backends"
_FOLDER = BACKENDS / "jax" / "models"
# a family is a file, or a package of files where one would be long
MODELS = sorted(
    path.relative_to(_FOLDER).as_posix() for path in _FOLDER.rglob("*.py") if path != _FOLDER / "__init__.py"
)
LIBRARIES = [
    "__init__.py",
    "cache.py",
    "composite.py",
    "generation.py",
    "layers.py",
    "ops.py",
    "pretrained.py",
    "slots.py",
    "stacks.py",
]

ALONE = {
    "jax": {"orbax.py": "Orbax stores trees of JAX arrays"},
    "torch": {"products.py": "XLA picks a JAX model's matrix products; torch always takes MKL's"},
}
"""Files of one backend alone -> the reason."""

FRAMEWORKS = ("jax", "flax", "torch")

ONLY_HERE = {
    "jax": {
        "Placement": "where JAX can put a parameter",
        "Init.compute_dtype": "torch has autocast",
        "Build.compute_dtype": "torch has autocast",
        "Build.sharding": "torch has devices",
        "Embedding.call": "torch's own gives no gradient to padding_idx and refuses ids that are out of range",
        "Buffer": "torch's own",
        "Conv2d.returns_channels_last": "a bare call has each framework's layout; models call patches",
        "ForwardKey": "torch's global generator has a state",
        "check_mesh": "torch's tensors don't say how results are sharded",
        "iterate": "torch's is named_modules",
        "modules": "torch's is named_modules",
        "without_gradient": "torch has requires_grad",
        "is_trainable": "torch has requires_grad",
        "PreTrainedModel.trainable_filter": "torch has requires_grad",
        "PreTrainedModel.training": "torch's own",
        "PreTrainedModel.train": "torch's own",
        "PreTrainedModel.eval": "torch's own",
    },
    "torch": {
        "Build.device": "JAX has shardings",
        "LinearInOut.call": "JAX's is nnx.Linear's",
        "GroupNorm.call": "JAX's is nnx.GroupNorm's, which has channels last",
        "LinearInOut.extra_repr": "nnx prints every layer's attributes",
        "PreTrainedModel.call": "XLA picks a JAX model's matrix products",
        "PreTrainedModel.device": "a JAX model may live on many",
        "PreTrainedModel.load_state_dict": "torch's own takes the model's names alone",
        "is_sharded": "a JAX array knows its parts",
        "is_transformed": "a JAX tracer",
        "as_tensor": "numpy knows JAX's bfloat16",
        "as_array": "numpy knows JAX's bfloat16",
    },
}
"""Public names of one backend alone -> the reason."""

LOADING = {"mmap": "JAX's layout is not the file's"}
"""Keywords of torch's from_pretrained alone -> the reason."""

_KEYWORDS = [*LOADING, *(name[6:] for only in ONLY_HERE.values() for name in only if name.startswith("Build."))]


class _Neutral(ast.NodeTransformer):
    """Takes out of a model file the words that name its framework."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name("array", node.ctx) if node.id in ("Array", "Tensor") else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Name("module", node.ctx) if ast.unparse(node) in ("nn.Module", "nnx.Module") else node_of(self, node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name in ("forward", "__call__"):
            node.name = "call"
        return node_of(self, node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if ast.unparse(node) == "super().__init__()" else node_of(self, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.module is not None:
            if node.module.split(".")[0] in FRAMEWORKS:
                return None
            for name in FRAMEWORKS:
                node.module = node.module.replace(f"diptych.backends.{name}", "diptych.backends.one")
        return node


def node_of(visitor: ast.NodeTransformer, node: ast.AST) -> ast.AST:
    return visitor.generic_visit(node)


def neutral(source: str) -> str:
    """A model file without the words that name its framework, one statement a line."""
    return ast.unparse(_Neutral().visit(ast.parse(source)))


def differences(jax: str, torch: str) -> list[str]:
    """The lines in which two model files differ after the word swaps: "-" torch's, "+" JAX's."""
    texts = neutral(torch).splitlines(), neutral(jax).splitlines()
    return list(difflib.unified_diff(*texts, lineterm="", n=0))[2:]


def signatures(source: str) -> dict[str, str]:
    """Every public name of a file, with the parameters and their defaults where it is a function."""
    found: dict[str, str] = {}

    def add(node: ast.stmt, prefix: str = "") -> None:
        if isinstance(node, ast.ClassDef):
            found[prefix + node.name] = "class"
            for child in node.body:
                add(child, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and node.name[0].isupper():  # makes one of the framework's own layers
            node.args.args.insert(0, ast.arg("self"))
            found[prefix + node.name], found[f"{prefix}{node.name}.__init__"] = "class", _parameters(node.args)
        elif isinstance(node, ast.FunctionDef):
            name = "call" if node.name in ("forward", "__call__") else node.name
            found.setdefault(prefix + name, _parameters(node.args))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found[prefix + ast.unparse(target)] = "value"

    for statement in ast.parse(source).body:
        add(statement)
    private = [name for name in found if any(p.startswith("_") and p != "__init__" for p in name.split("."))]
    return {name: kind for name, kind in found.items() if name not in private}


def _parameters(arguments: ast.arguments) -> str:
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    kept = [(argument, default) for argument, default in pairs if argument.arg not in _KEYWORDS]
    arguments.kwonlyargs, arguments.kw_defaults = [a for a, _ in kept], [default for _, default in kept]
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.kwarg, arguments.vararg]:
        if argument is not None:
            argument.annotation = None
    return ast.unparse(arguments)


def assert_same_face(jax: str, torch: str) -> None:
    """Two files have the same public names and signatures, but for what ONLY_HERE has a reason for."""
    faces = {"jax": signatures(jax), "torch": signatures(torch)}
    for name, face in faces.items():
        (other,) = (faces[key] for key in faces if key != name)
        alone = {path for path in face if path not in other and path.rpartition(".")[0] not in ONLY_HERE[name]}
        assert alone <= set(ONLY_HERE[name]), f"only in {name}: {sorted(alone - set(ONLY_HERE[name]))}"
    for path in faces["jax"].keys() & faces["torch"].keys():
        assert faces["jax"][path] == faces["torch"][path], path


def source(backend: str, *path: str) -> str:
    return BACKENDS.joinpath(backend, *path).read_text(encoding="utf-8")


def test_every_file_has_a_twin() -> None:
    files = {
        name: sorted(path.relative_to(BACKENDS / name).as_posix() for path in (BACKENDS / name).rglob("*.py"))
        for name in ("jax", "torch")
    }
    for name, alone in ALONE.items():
        assert set(alone) <= set(files[name]), name
        files[name] = [path for path in files[name] if path not in alone]
    assert files["jax"] == files["torch"]
    assert sorted(files["jax"]) == sorted([*LIBRARIES, "models/__init__.py", *(f"models/{name}" for name in MODELS)])
    described = {module.name for module in pkgutil.iter_modules([str(BACKENDS.parent / "core" / "models")])}
    assert {name.split("/")[0].removesuffix(".py") for name in MODELS} == described


@pytest.mark.parametrize("name", MODELS)
def test_models_are_the_same_text(name: str) -> None:
    assert differences(source("jax", "models", name), source("torch", "models", name)) == []


@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_have_the_same_face(name: str) -> None:
    assert_same_face(source("jax", name), source("torch", name))


def test_every_exception_still_exists() -> None:
    for backend, only in ONLY_HERE.items():
        faces = [signatures(source(backend, name)) for name in LIBRARIES]
        assert set(only) <= {path for face in faces for path in face}, backend
    assert all(f"            {name}=" in source("torch", "pretrained.py") for name in LOADING)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.query = layers.Linear", "self.queries = layers.Linear"),
        (", config.layer_norm_eps,", ", 1e-12,"),
        ("class BertOutput(", "class BertOut("),
        ("crosses: bool = False", "crosses: bool = True"),
        ('Float[Tensor, "B T F"]', 'Float[Tensor, "B T D"]'),
        ("embeddings + self.token_type_embeddings(", "words + self.token_type_embeddings("),
        ("hidden_states[:, 0]", "hidden_states[:, -1]"),
        ("def _run_stack(", "def _run_stacks("),
        ("rngs: Any = None,\n    ) -> Float", "rngs: Any = 0,\n    ) -> Float"),
        ("The encoder with a head that predicts masked words.", "The encoder."),
    ],
)
def test_a_change_in_one_model_is_seen(old: str, new: str) -> None:
    jax, torch = source("jax", "models", "bert.py"), source("torch", "models", "bert.py")
    changed = torch.replace(old, new, 1)
    assert changed != torch
    minus, plus = differences(jax, changed)[1:]
    assert minus[0] == "-" and plus[0] == "+"


def test_attributes_that_change_places_are_seen() -> None:
    jax, torch = source("jax", "models", "bert.py"), source("torch", "models", "bert.py")
    first = "        self.heads = config.num_attention_heads\n"
    second = "        self.query = layers.Linear(config.hidden_size, config.hidden_size, **init)\n"
    assert first + second in torch
    assert f"+{first.rstrip()}" in differences(jax, torch.replace(first + second, second + first))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def gather_rows(", "def at_rows(", "only in jax.*gather_rows"),
        ("def gather_rows(", "def _at_row(", "only in jax.*gather_rows"),
        ("weights: bool = False", "weights: bool = True", "attention"),
        ("def vector_norm(values:", "def vector_norm(value:", "norm"),
        ("ACTIVATIONS:", "ACTS:", "only in jax.*ACTIVATIONS"),
        ("def steps(count: int, like: Tensor)", "def steps(like: Tensor, count: int)", "steps"),
        (
            "class Init(TypedDict, total=False):",
            "class Init(TypedDict, total=False):\n    device: str",
            "only in torch",
        ),
    ],
)
def test_a_change_of_one_library_is_seen(old: str, new: str, message: str) -> None:
    jax, torch = source("jax", "ops.py"), source("torch", "ops.py")
    changed = torch.replace(old, new, 1)
    assert changed != torch
    with pytest.raises(AssertionError, match=message):
        assert_same_face(jax, changed)
