"""Narrowing changes no answer: real architectures, and small modules made to trip it."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from amalgam_edge.dropout.masks import DropoutPass, site_word, unit_hashes
from amalgam_edge.dropout.sites import LiveDropout
from amalgam_edge.exporters.tracing.dropout_marks import MARK
from amalgam_edge.exporters.tracing.first_token import narrow_to_first_token
from amalgam_edge.exporters.tracing.to_onnx import LogitsModule, trace
from tests.support import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")

SHAPES = ((3, 5), (2, 7), (1, 4), (4, 2), (1, 1))
SEED, PASSES, MC_PASS, RATE = 5, 7, 3, 0.3

# --- modules made by hand


class Toy(torch.nn.Module):
    """A function of ``(texts, tokens, 8)`` that finds a few layers in ``self``."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.a, self.b, self.c = (torch.nn.Linear(8, 8) for _ in range(3))
        self.wide, self.qkv = torch.nn.Linear(16, 8), torch.nn.Linear(8, 24)
        self.norm = torch.nn.LayerNorm(8)
        self.vector = torch.nn.Parameter(torch.randn(8))
        self.table = torch.nn.Embedding(4, 8)
        self.double()

    def forward(self, x):
        return self.function(self, x)


class Interpreter(torch.fx.Interpreter):
    """Runs a traced module with each mark as the dropout that it stands for."""

    def call_function(self, target, args, kwargs):
        if target is not MARK:
            return super().call_function(target, args, kwargs)
        values, site, batched = args
        one = DropoutPass(MC_PASS, PASSES, "systematic")
        word = site_word(torch.tensor(SEED, dtype=torch.int32), site, one.round_number)
        shape = values.shape[1:] if batched else values.shape
        return values * one.mask(unit_hashes(word, shape), RATE).to(values.dtype)


def traced_module(module, *inputs, unbatched=()):
    with torch.no_grad():
        return trace(module, inputs, unbatched).module(check_guards=False)


def assert_narrowed(function, products, shapes=SHAPES, unbatched=()):
    """The narrowed module answers as the original does but for the last bits of float64."""
    module = Toy(function)
    traced = traced_module(module, torch.randn(3, 5, 8, dtype=torch.float64), unbatched=unbatched)
    narrowed = narrow_to_first_token(traced)
    traced.graph.lint()
    generator = torch.Generator().manual_seed(1)
    for shape in shapes:
        x = torch.randn(*shape, 8, dtype=torch.float64, generator=generator)
        live = LiveDropout(SEED, PASSES, unbatched=unbatched)
        live.start(MC_PASS)
        with torch.no_grad():
            with live:
                expected = module(x)
            found = Interpreter(traced).run(x)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert narrowed == products


def let(value, function):
    """A value that is read several times."""
    return function(value)


def heads(x):
    return x.view(x.shape[0], -1, 2, 4).transpose(1, 2)


def attend(query, key, value):
    weights = torch.softmax(heads(query) @ heads(key).transpose(2, 3) / 2, dim=-1)
    return (F.dropout(weights, RATE) @ heads(value)).transpose(1, 2).contiguous().view(query.shape)


def attention(m, x):
    return attend(m.a(x), m.b(x), m.c(x))


def fused_attention(m, x):
    query, key, value = m.qkv(x).split(8, dim=-1)
    return attend(query, key, value)


def stacked_attention(m, x):
    query, key, value = m.qkv(x).view(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return (torch.softmax(query @ key.mT, -1) @ value).permute(0, 2, 1, 3).contiguous().view(x.shape)


def feed_forward(m, x):
    return m.norm(x + F.dropout(m.a(F.gelu(m.b(x))), RATE))


def layer(m, x):
    x = m.norm(x + F.dropout(m.c(attention(m, x)), RATE))
    return feed_forward(m, x)


def in_place(m, x):
    y = m.a(x)
    y += x
    y.mul_(2)
    return torch.relu(y)[:, 0]


def in_place_on_another_token(m, x):
    y = m.a(x)
    z = torch.relu(y)
    y[:, -1] = 0
    return y[:, 0] + z[:, 0]


def in_place_from_all_tokens(m, x):
    y = m.a(x).clone()
    y[:, 0] = y.sum(1)
    return torch.relu(y)[:, 0]


# Each: how many products become smaller, and the function.
NARROWED = {
    "linear": (1, lambda m, x: m.a(x)[:, 0]),
    "linear without bias": (1, lambda m, x: F.linear(x, m.a.weight)[:, 0]),
    "chain": (3, lambda m, x: m.c(torch.relu(m.b(F.gelu(m.a(x)))))[:, 0]),
    "pooler": (2, lambda m, x: m.c(torch.tanh(m.b(m.norm(m.a(m.a(x)))[:, 0])))),
    "residual": (2, lambda m, x: feed_forward(m, x)[:, 0]),
    "attention": (3, lambda m, x: attention(m, x)[:, 0]),
    "fused attention": (2, lambda m, x: fused_attention(m, x)[:, 0]),
    "layer": (6, lambda m, x: layer(m, x)[:, 0]),
    "two layers": (6, lambda m, x: layer(m, layer(m, x))[:, 0]),
    "batched products": (2, lambda m, x: torch.bmm(torch.bmm(x, x.mT).softmax(-1), x)[:, 0]),
    "product of one tensor with itself": (1, lambda m, x: let(m.a(x), lambda y: (y.mT @ y)[:, 0])),
    "left side of a product": (1, lambda m, x: (x.mT @ m.a(x))[:, 0]),
    "parameters": (1, lambda m, x: (m.a(x) * m.vector + m.vector)[:, 0]),
    "twice the same": (1, lambda m, x: let(m.a(x), lambda y: (y + y)[:, 0])),
    "read twice, first both times": (2, lambda m, x: let(m.a(x), lambda y: y[:, 0] + m.b(y)[:, 0])),
    "in place": (1, in_place),
    "transposed": (1, lambda m, x: torch.relu(m.a(x).mT)[:, :, 0]),
    "transposed, first axis": (1, lambda m, x: torch.relu(m.a(x).transpose(0, 1))[0]),
    "permuted": (1, lambda m, x: torch.relu(m.a(x).permute(-1, 1, 0))[:, 0]),
    "heads": (1, lambda m, x: heads(m.a(x))[:, :, 0]),
    "heads and back": (1, lambda m, x: torch.tanh(heads(m.a(x))).transpose(1, 2).contiguous().view(x.shape)[:, 0]),
    "axes of one": (1, lambda m, x: m.a(x).reshape(x.shape[0], 1, x.shape[1], 1, 8)[:, :, 0]),
    "unsqueezed": (1, lambda m, x: torch.relu(m.a(x).unsqueeze(1))[:, :, 0]),
    "split": (1, lambda m, x: let(m.a(x).split(4, -1), lambda y: (torch.relu(y[0]) * y[1])[:, 0])),
    "chunks": (1, lambda m, x: let(m.a(x).chunk(2, -1), lambda y: (torch.relu(y[0]) * y[1])[:, 0])),
    "uneven split": (1, lambda m, x: let(m.a(x).split([3, 2, 3], -1), lambda y: (y[0] + y[2])[:, 0])),
    "concatenated features": (3, lambda m, x: m.wide(torch.cat([m.a(x), m.b(x)], -1))[:, 0]),
    "concatenated texts": (1, lambda m, x: torch.cat([m.a(x), x], 0)[:, 0]),
    "gathered features": (1, lambda m, x: torch.gather(m.a(x), 2, (x > 0).long())[:, 0]),
    "where": (1, lambda m, x: torch.where(x > 0, m.a(x), m.vector)[:, 0]),
    "masked": (1, lambda m, x: m.a(x).masked_fill(x[:, :, :1] > 0, 3.0)[:, 0]),
    "looked up": (1, lambda m, x: m.a(m.table((x[:, :, 0] > 0).long()))[:, 0]),
    "broadcast token": (1, lambda m, x: (m.a(x) + m.b(x)[:, :1])[:, 0]),
    "broadcast pairs, rows": (1, lambda m, x: (m.a(x).unsqueeze(2) + m.b(x).unsqueeze(1))[:, 0]),
    "broadcast pairs, columns": (1, lambda m, x: (m.a(x).unsqueeze(2) + m.b(x).unsqueeze(1))[:, :, 0]),
    "broadcast positions": (1, lambda m, x: (m.a(x) + torch.arange(x.shape[1])[:, None])[:, 0]),
    "expanded": (1, lambda m, x: m.a(x).unsqueeze(1).expand(-1, 3, -1, -1)[:, :, 0]),
    "expanded vector": (1, lambda m, x: (m.vector.expand(*x.shape) + m.a(x))[:, 0]),
    "normalised over two axes": (1, lambda m, x: F.layer_norm(heads(m.a(x)).transpose(1, 2), [2, 4])[:, 0]),
    "softmax of features": (1, lambda m, x: torch.softmax(m.a(x), -1)[:, 0]),
    "softmax of features, counted from the front": (1, lambda m, x: torch.softmax(m.a(x), 2)[:, 0]),
    "first of another axis, then of tokens": (1, lambda m, x: torch.relu(m.a(x)[:, :, 3])[:, 0]),
    "first text": (1, lambda m, x: torch.relu(m.a(x))[0]),
    "first token of the first text": (1, lambda m, x: torch.relu(m.a(x)[0])[0]),
    "fewer tokens by a symbol": (1, lambda m, x: m.a(x)[:, : (x.shape[1] + 1) // 2][:, 0]),
    "dropout": (2, lambda m, x: F.dropout(m.b(F.dropout(m.a(x), RATE)), RATE)[:, 0]),
    "dropout of what is broadcast": (1, lambda m, x: F.dropout(m.a(x)[:, :, None] * x[:, None], RATE)[:, 0]),
    "less the mean of everything": (1, lambda m, x: (m.a(x) - m.b(x).mean(dim=None, keepdim=True))[:, 0]),
    "less the sum over no axis named": (1, lambda m, x: (m.a(x) - m.b(x).sum(dim=(), keepdim=True))[:, 0]),
    "sum of a later axis": (1, lambda m, x: heads(m.a(x)).sum(3)[:, :, 0]),
    "mean of axes on both sides, kept": (1, lambda m, x: heads(m.a(x)).mean((1, 3), keepdim=True)[:, :, 0]),
    "mean of texts, kept": (1, lambda m, x: m.a(x).mean(0, keepdim=True)[:, 0]),
    "number of tokens": (1, lambda m, x: m.a(x)[:, 0] * x.shape[1]),
}
LEFT = {
    "mean": lambda m, x: m.a(x).mean(1),
    "last": lambda m, x: m.a(x)[:, -1],
    "second": lambda m, x: torch.cat([m.a(x), m.a(x)], 1)[:, 1],
    "feature": lambda m, x: torch.relu(m.a(x))[:, :, 0],
    "first and all": lambda m, x: let(m.b(torch.relu(m.a(x))), lambda y: y[:, 0] + y.mean(1)),
    "first and last": lambda m, x: let(m.b(torch.relu(m.a(x))), lambda y: y[:, 0] + y[:, -1]),
    "first token and first text": lambda m, x: let(torch.relu(m.a(x)), lambda y: y[:, 0].sum() + y[0].sum()),
    "one part of a split read whole": lambda m, x: let(
        m.a(x).split(4, -1), lambda y: torch.relu(y[0])[:, 0] + y[1].sum(1)
    ),
    "mean of axes on both sides": lambda m, x: heads(m.a(x)).mean((1, 3))[:, 0],
    "sum of an earlier axis": lambda m, x: heads(m.a(x)).sum(1)[:, 0],
    "mean of tokens, kept": lambda m, x: m.a(x).mean(1, keepdim=True)[:, 0],
    "cumulated": lambda m, x: m.a(x).cumsum(1)[:, 0],
    "flipped": lambda m, x: m.a(x).flip(1)[:, 0],
    "rolled": lambda m, x: m.a(x).roll(1, 1)[:, 0],
    "shifted": lambda m, x: F.pad(m.a(x), (0, 0, 1, 0))[:, 0],
    "without the first": lambda m, x: torch.cat([m.a(x), x], 1)[:, 1:][:, 0],
    "every second, from the second": lambda m, x: torch.cat([m.a(x), x], 1)[:, 1::2][:, 0],
    "softmax of tokens": lambda m, x: torch.softmax(m.a(x), 1)[:, 0],
    "normalised over tokens": lambda m, x: let(m.a(x), lambda y: y / y.norm(dim=1, keepdim=True))[:, 0],
    "gathered tokens": lambda m, x: torch.gather(m.a(x), 1, torch.ones_like(x).long() * (x.shape[1] - 1))[:, 0],
    "flattened": lambda m, x: m.a(x).flatten(1)[:, 0],
    "reshaped across tokens": lambda m, x: m.a(x).reshape(x.shape[0], x.shape[1] * 2, 4)[:, 0],
    "right side of a product": lambda m, x: (m.vector.expand(x.shape[0], 8, 8) @ m.a(x).mT)[:, :, 0],
    "in place, another token": in_place_on_another_token,
    "in place, from all tokens": in_place_from_all_tokens,
    "largest token": lambda m, x: m.a(x).max(1).values,
    "attention averaged": lambda m, x: attention(m, x).mean(1),
    "expanded, first of the new axis": lambda m, x: m.a(x).unsqueeze(1).expand(-1, 3, -1, -1)[:, 0],
    "convolved": lambda m, x: F.conv1d(m.a(x).mT, m.a.weight[:, :, None].expand(-1, -1, 3), padding=1).mT[:, 0],
    "tokens concatenated": lambda m, x: torch.cat([m.a(x), x], 1)[:, 0],
    "lower triangle": lambda m, x: (m.a(x) @ x.mT).tril()[:, 0],
    "dropout of texts": lambda m, x: F.dropout(m.a(x), RATE)[0],
}


@pytest.mark.parametrize("name", NARROWED)
def test_what_only_the_first_is_read_of_is_narrowed(name):
    products, function = NARROWED[name]
    assert_narrowed(function, products)


@pytest.mark.parametrize("name", LEFT)
def test_what_more_is_read_of_is_left(name):
    assert_narrowed(LEFT[name], 0)


def test_a_table_without_batch_keeps_its_dropout():
    def relative(m, x):
        table = F.dropout(m.vector * torch.arange(x.shape[1])[:, None], RATE)
        return (m.a(x) + F.dropout(m.b(x), RATE) @ (table.mT @ table).expand(x.shape[0], 8, 8))[:, 0]

    assert_narrowed(relative, 3, unbatched={0})


def test_stacked_queries_keys_and_values_are_read_right():
    assert_narrowed(lambda m, x: stacked_attention(m, x)[:, 0], 2)


def test_heads_put_together_by_a_reshape_that_copies():
    assert_narrowed(lambda m, x: (heads(m.a(x)) @ heads(x).mT @ heads(x)).transpose(1, 2).reshape(x.shape)[:, 0], 3)


def test_a_normalisation_made_of_means():
    def normalised(m, x):
        y = m.a(x)
        y = y - y.mean(-1, keepdim=True)
        return (y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt())[:, 0]

    assert_narrowed(normalised, 1)


@pytest.mark.parametrize("end", [-1, -2])
def test_tokens_cut_from_the_end(end):
    assert_narrowed(lambda m, x: torch.relu(m.a(x)[:, :end])[:, 0], 1, shapes=((3, 5), (2, 7), (1, 3)))


def test_a_linear_of_a_tensor_with_itself():
    def gram(m, x):
        y = torch.relu(x[0])
        return F.linear(y, y)[0]

    assert_narrowed(gram, 0)


def test_an_elementwise_operation_of_two_outputs():
    assert_narrowed(lambda m, x: torch.frexp(m.a(x))[0][:, 0], 0)


def test_nothing_is_narrowed_twice():
    traced = traced_module(Toy(lambda m, x: layer(m, x)[:, 0]), torch.randn(3, 5, 8, dtype=torch.float64))
    assert narrow_to_first_token(traced) == 6
    again = traced_module(traced, torch.randn(3, 5, 8, dtype=torch.float64))
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    before = Interpreter(again).run(x)
    narrow_to_first_token(again)
    torch.testing.assert_close(Interpreter(again).run(x), before, rtol=1e-12, atol=1e-12)


# --- real architectures


def rows_of_products(path, feeds):
    """The number of rows of each matrix product's answer, in the order of execution."""
    model = onnx.load(path)
    products = [node.output[0] for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in products if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [array.shape[-2] for array in session.run(products, feeds)]


# How many products of the last layer take one token: of a BERT's eight all but keys and values; where query, key and
# value are one product, as in ModernBERT, one less; DeBERTa has one more, of positions.
POSITIONS = {"deberta-v2": (32, 4)}  # rows of tables of relative positions, which have no tokens
NARROW = dict.fromkeys(tiny.ARCHITECTURES, 6) | {"deberta-v2": 7, "modernbert": 5}
# Of a student, scores and context are reordered where nothing stands between tokens and keys: a row for each head.
REORDERED = set(tiny.ARCHITECTURES) - {"deberta-v2", "modernbert"}


@pytest.mark.parametrize("kind", ["student", "teacher"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_last_layer_works_for_the_first_token_alone(teachers, exports, architecture, kind):
    texts, tokens = 3, 23
    feeds = {"input_ids": np.full((texts, tokens), 77), "attention_mask": np.ones((texts, tokens), dtype=np.int64)}
    if kind == "teacher":
        feeds |= {"mc_pass": np.array(0), "mc_seed": np.array(0)}
    rows = rows_of_products((exports if kind == "student" else teachers)(architecture).path, feeds)
    reordered = kind == "student" and architecture in REORDERED
    assert rows.count(1) == NARROW[architecture] - 2 * reordered
    last = rows.index(1)  # the layers before work for all tokens, what comes after for one of each text
    assert set(rows[:last]) <= {tokens, *POSITIONS.get(architecture, ())}
    by_head = {2} if reordered else set()  # heads of the tiny models
    assert set(rows[last:]) - {1, tokens, *POSITIONS.get(architecture, ())} == {texts} | by_head


def test_a_head_that_averages_tokens_is_left_right(random_classifier, tokenizer):
    model = random_classifier(architecture="modernbert", classifier_pooling="mean")
    traced = traced_module(LogitsModule(model), *tiny.padded(tokenizer, tiny.TEXTS[:3]).values())
    assert narrow_to_first_token(traced) == 0
    inputs = tiny.padded(tokenizer, tiny.TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(traced(*inputs.values()), model(**inputs).logits, rtol=1e-4, atol=1e-4)
