"""The networks against their published equations, stated with loops over notes, tokens and labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from icdtune.coders.classifiers.attention import LabelAttention
from icdtune.coders.classifiers.networks.base import WordNetwork
from icdtune.coders.classifiers.networks.bigru import BiGRU, BiGRUConfig
from icdtune.coders.classifiers.networks.caml import CAML, CAMLConfig
from icdtune.coders.classifiers.networks.cnn import CNN, CNNConfig
from icdtune.coders.classifiers.networks.laat import LAAT, LAATConfig
from icdtune.coders.classifiers.networks.multirescnn import MultiResCNN, MultiResCNNConfig
from icdtune.coders.classifiers.networks.plm import PLM, PLMConfig

LABELS, WORDS, WIDTH = 7, 40, 6
LENGTHS = (9, 1, 14, 5)
COMMON = {"words": WORDS, "embedding": WIDTH, "labels": LABELS, "attention_norm": "none"}
BERT = {
    "model_type": "bert",
    "vocab_size": WORDS,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
Vectors = list[list[float]]


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros((len(LENGTHS), max(LENGTHS)), dtype=torch.long)
    for i, length in enumerate(LENGTHS):
        ids[i, :length] = torch.randint(2, WORDS, (length,), generator=generator)
    return ids, (ids > 0).long()


def scattered(network: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Every parameter and statistic drawn anew, so that no term is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.dtype.is_floating_point:
                drawn = torch.randn(value.shape, generator=generator) * 0.4
                value.copy_(drawn.abs() + 0.1 if "running_var" in name else drawn)
        if isinstance(network, WordNetwork):
            network.embed.weight[0] = 0  # padding
    return network.eval()


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(scores: list[float]) -> list[float]:
    exps = [math.exp(s - max(scores)) for s in scores]
    return [e / sum(exps) for e in exps]


def layer_norm(v: list[float], weight: list[float], bias: list[float]) -> list[float]:
    mean = sum(v) / len(v)
    variance = sum((x - mean) ** 2 for x in v) / len(v)
    scale = 1 / math.sqrt(variance + 1e-5)
    return [(x - mean) * scale * w + b for x, w, b in zip(v, weight, bias, strict=True)]


def attended(attention: LabelAttention, states: Vectors) -> list[float]:
    """Logits of one note by the equations, a label and a token at a time."""
    queries = attention.queries.tolist()
    if attention.kind == "tanh":
        values = [[math.tanh(x) for x in h] for h in states]
        keys = values
    elif attention.kind == "projected":
        values = states
        w = attention.key.weight.tolist()
        keys = [[math.tanh(dot(row, h)) for row in w] for h in states]
    else:
        w, v, c = (
            attention.key.weight.tolist(),
            attention.value.weight.tolist(),
            attention.value.bias.tolist(),
        )
        keys = [[dot(row, h) for row in w] for h in states]
        values = [[dot(row, h) + b for row, b in zip(v, c, strict=True)] for h in states]
    logits = []
    for label, query in enumerate(queries):
        weights = softmax([dot(query, k) for k in keys])
        summary = [
            sum(a * v[j] for a, v in zip(weights, values, strict=True))
            for j in range(len(values[0]))
        ]
        own = 0 if attention.kind == "cross" else label
        if attention.kind == "cross":
            norm = attention.summary_norm
            summary = layer_norm(summary, norm.weight.tolist(), norm.bias.tolist())
        logits.append(dot(attention.read[own].tolist(), summary) + attention.bias[own].item())
    return logits


def convolved(conv: torch.nn.Conv1d, x: Vectors) -> Vectors:
    """A convolution padded by kernel // 2, a position, a filter and an offset at a time."""
    weight, kernel = conv.weight.tolist(), conv.kernel_size[0]
    bias = [0.0] * conv.out_channels if conv.bias is None else conv.bias.tolist()
    pad = kernel // 2
    out = []
    for t in range(len(x) + 2 * pad - kernel + 1):
        row = []
        for f in range(conv.out_channels):
            total = bias[f]
            for k in range(kernel):
                at = t + k - pad
                if 0 <= at < len(x):
                    total += sum(weight[f][c][k] * x[at][c] for c in range(len(x[0])))
            row.append(total)
        out.append(row)
    return out


def batch_norm(norm: torch.nn.BatchNorm1d, x: Vectors) -> Vectors:
    mean, variance = norm.running_mean.tolist(), norm.running_var.tolist()
    weight, bias = norm.weight.tolist(), norm.bias.tolist()
    return [
        [
            (value - mean[j]) / math.sqrt(variance[j] + norm.eps) * weight[j] + bias[j]
            for j, value in enumerate(row)
        ]
        for row in x
    ]


def tanh(x: Vectors) -> Vectors:
    return [[math.tanh(value) for value in row] for row in x]


def caml(network: CAML, x: Vectors) -> list[float]:
    return attended(network.attention, convolved(network.conv, x))


def multirescnn(network: MultiResCNN, x: Vectors) -> list[float]:
    found: list[Vectors] = []
    for conv, block in zip(network.convs, network.blocks, strict=True):
        u = tanh(convolved(conv, x))
        left = tanh(batch_norm(block.first_norm, convolved(block.first, u)))
        left = batch_norm(block.second_norm, convolved(block.second, left))
        right = batch_norm(block.shortcut_norm, convolved(block.shortcut, u))
        found.append(
            tanh(
                [
                    [a + b for a, b in zip(m, n, strict=True)]
                    for m, n in zip(left, right, strict=True)
                ]
            )
        )
    side_by_side = [sum((part[t] for part in found), []) for t in range(len(x))]
    return attended(network.attention, side_by_side)


def lstm(network: LAAT, x: Vectors, suffix: str, order: list[int]) -> dict[int, list[float]]:
    """States of one direction of the LSTM, gate by gate."""
    rnn = network.rnn
    wi, wh = (getattr(rnn, f"weight_{k}_l0{suffix}").tolist() for k in ("ih", "hh"))
    bi, bh = (getattr(rnn, f"bias_{k}_l0{suffix}").tolist() for k in ("ih", "hh"))
    size = rnn.hidden_size
    h, c = [0.0] * size, [0.0] * size
    states = {}
    for t in order:
        z = [dot(wi[g], x[t]) + bi[g] + dot(wh[g], h) + bh[g] for g in range(4 * size)]
        i, f, g, o = (z[k * size : (k + 1) * size] for k in range(4))
        c = [
            c[j] / (1 + math.exp(-f[j])) + math.tanh(g[j]) / (1 + math.exp(-i[j]))
            for j in range(size)
        ]
        h = [math.tanh(c[j]) / (1 + math.exp(-o[j])) for j in range(size)]
        states[t] = h
    return states


def laat(network: LAAT, x: Vectors) -> list[float]:
    forward = lstm(network, x, "", list(range(len(x))))
    backward = lstm(network, x, "_reverse", list(reversed(range(len(x)))))
    return attended(network.attention, [forward[t] + backward[t] for t in range(len(x))])


def cnn(network: CNN, x: Vectors) -> list[float]:
    found = tanh(convolved(network.conv, x))
    strongest = [max(row[f] for row in found) for f in range(network.conv.out_channels)]
    return [
        dot(w, strongest) + b
        for w, b in zip(network.out.weight.tolist(), network.out.bias.tolist(), strict=True)
    ]


NETWORKS: dict[str, tuple[Callable[[], WordNetwork], Callable[..., list[float]]]] = {
    "cnn": (lambda: CNN(CNNConfig(filters=5, kernel=4, **COMMON)), cnn),
    "caml": (lambda: CAML(CAMLConfig(filters=5, kernel=4, **COMMON)), caml),
    "caml, odd kernel": (lambda: CAML(CAMLConfig(filters=5, kernel=3, **COMMON)), caml),
    "multirescnn": (
        lambda: MultiResCNN(MultiResCNNConfig(filters=4, kernels=(3, 5), **COMMON)),
        multirescnn,
    ),
    "laat": (lambda: LAAT(LAATConfig(hidden=4, projection=5, **COMMON)), laat),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_word_networks_give_the_logits_of_their_equations(name: str) -> None:
    make, equations = NETWORKS[name]
    network = scattered(make())
    ids, mask = batch()
    with torch.no_grad():
        found = network(ids, mask).logits
    for row, length in enumerate(LENGTHS):
        x = network.embed.weight[ids[row, :length]].tolist()
        assert found[row].tolist() == pytest.approx(equations(network, x), abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("kind", ["projected", "cross"])
def test_plm_icd_and_plm_ca_give_the_logits_of_their_equations(kind: str) -> None:
    config = PLMConfig(BERT, LABELS, chunk=4, attention=kind, attention_norm="none")
    network = scattered(PLM(config))
    ids, mask = batch()
    with torch.no_grad():
        found = network(ids, mask).logits
        for row, length in enumerate(LENGTHS):
            states: Vectors = []
            for start in range(0, length, 4):
                piece = ids[row, start : min(start + 4, length)]
                states += network.encoder(input_ids=piece[None]).last_hidden_state[0].tolist()
            expected = attended(network.attention, states)
            assert found[row].tolist() == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_bigru_reads_the_last_states_of_each_note() -> None:
    network = scattered(BiGRU(BiGRUConfig(hidden=4, **COMMON)))
    ids, mask = batch()
    with torch.no_grad():
        found = network(ids, mask).logits
        for row, length in enumerate(LENGTHS):
            alone = network(ids[row : row + 1, :length], mask[row : row + 1, :length]).logits
            torch.testing.assert_close(found[row], alone[0], atol=1e-6, rtol=1e-5)
            states, last = network.rnn(network.embed(ids[row : row + 1, :length]))
            read = torch.cat([states[0, -1, :4], states[0, 0, 4:]])
            expected = network.out.weight @ read + network.out.bias
            torch.testing.assert_close(found[row], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "projection"), [("tanh", 6), ("projected", 6), ("projected", 5), ("cross", 6)]
)
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_fused_plain_and_blocked_attention_give_the_same_values_and_gradients(
    kind: str, projection: int, norm: str
) -> None:
    whole = scattered(LabelAttention(kind, 6, LABELS, projection, norm))  # type: ignore[arg-type]
    parts = LabelAttention(kind, 6, LABELS, projection, norm, label_block_size=3)  # type: ignore[arg-type]
    parts.load_state_dict(whole.state_dict())
    states = torch.randn((3, 5, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]])

    def by_hand(attention: LabelAttention, h: torch.Tensor) -> torch.Tensor:
        keys, values = attention.keys_and_values(h)
        weights = attention.weights(h, mask, torch.arange(LABELS))
        return attention._read(weights @ values, attention.read, attention.bias)

    forms = {
        "module": lambda h: whole(h, mask),
        "module with blocks": lambda h: parts(h, mask),
        "by hand": lambda h: by_hand(whole, h),
    }
    if kind != "cross":
        forms["blocks"] = lambda h: parts._in_blocks(*parts.keys_and_values(h), mask)
    found = {}
    for name, form in forms.items():
        x = states.clone().requires_grad_()
        attention = parts if "blocks" in name else whole
        attention.zero_grad()
        out = form(x)
        out.square().sum().backward()
        found[name] = [out, x.grad, *(p.grad for p in attention.parameters())]
    for name, values in found.items():
        for one, other in zip(found["by hand"], values, strict=True):
            torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("kind", ["tanh", "projected", "cross"])
def test_padding_gets_no_attention_and_the_rest_adds_up_to_one(kind: str) -> None:
    attention = scattered(LabelAttention(kind, 6, LABELS))  # type: ignore[arg-type]
    states = torch.randn((2, 5, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    weights = attention.weights(states, mask, torch.tensor([4, 0]))
    assert weights.shape == (2, 2, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2))
    assert float(weights[1, :, 2:].detach().abs().max()) == 0
    changed = states.clone()
    changed[1, 2:] = 1e4
    torch.testing.assert_close(attention(states, mask), attention(changed, mask))


@pytest.mark.parametrize("kind", ["tanh", "projected", "cross"])
def test_scaled_states_break_plain_half_precision_attention_and_leave_ours_finite(
    kind: str,
) -> None:
    """States around 20,000 are within fp16 (65,504); weighted sums over them are not."""
    generator = torch.Generator().manual_seed(3)
    states = torch.randn((2, 20, 64), generator=generator).half() * 20_000
    states = states.clamp(-60_000, 60_000)
    mask = torch.ones(2, 20)
    ours = scattered(LabelAttention(kind, 64, LABELS)).half()  # type: ignore[arg-type]
    x = states.clone().requires_grad_()
    out = ours(x, mask)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in ours.parameters())
    plain = x.detach().clone().requires_grad_()
    logits = plain_attention(ours, plain)
    logits.float().sum().backward()
    broken = not torch.isfinite(logits).all() or not torch.isfinite(plain.grad).all()
    assert broken or kind == "tanh"  # tanh bounds its states by itself


def plain_attention(attention: LabelAttention, states: torch.Tensor) -> torch.Tensor:
    """The published form: no norm, everything in the states' type."""
    if attention.kind == "tanh":
        keys = values = torch.tanh(states)
    elif attention.kind == "projected":
        keys, values = torch.tanh(attention.key(states)), states
    else:
        keys, values = attention.key(states), attention.value(states)
    weights = torch.softmax(attention.queries @ keys.transpose(1, 2), -1)
    summary = weights @ values
    if attention.kind == "cross":
        summary = attention.summary_norm(summary)
    return (attention.read * summary).sum(-1) + attention.bias


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_comes_back_the_same(name: str, tmp_path: Path) -> None:
    network = scattered(NETWORKS[name][0]())
    network.save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path).eval()
    ids, mask = batch()
    with torch.no_grad():
        torch.testing.assert_close(network(ids, mask).logits, again(ids, mask).logits)


def test_a_saved_plm_comes_back_with_its_encoder(tmp_path: Path) -> None:
    encoder = BertModel(BertConfig(**{k: v for k, v in BERT.items() if k != "model_type"}))
    network = PLM(PLMConfig(BERT, LABELS, chunk=4), encoder).eval()
    network.save_pretrained(tmp_path)
    again = PLM.from_pretrained(tmp_path).eval()
    ids, mask = batch()
    with torch.no_grad():
        torch.testing.assert_close(network(ids, mask).logits, again(ids, mask).logits)
