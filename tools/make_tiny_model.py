#!/usr/bin/env python3
# ruff: noqa: B905, E501, E731, F541, I001, N805, N806, N812, PLC0415, PLW2901, Q003, RUF005, SIM905
# fmt: off
# Nothing below was changed since it made src/dragoman/data/tiny-chat-f16.gguf.
"""Make a tiny chat model (GGUF, qwen3 architecture) from nothing but this file.

No downloaded weights and no outside text: the training text is produced by the
little grammar below, the tokenizer is trained on that text, the network is
trained here on the CPU, and the result is written as one GGUF file with a chat
template that supports a system prompt, tools, tool results and thinking.

Needs: torch, numpy, tokenizers, gguf, jinja2   (training only; not needed to use the file)

    python make_tiny_model.py --minutes 15 --out tiny-chat-f16.gguf
    python make_tiny_model.py --minutes 0  --out tiny-random-f16.gguf   # random weights
"""
import argparse
import json
import math
import random
import time

import numpy as np

# ------------------------------------------------------------------ template
CHAT_TEMPLATE = r"""
{%- macro body(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content -%}
{%- for part in content -%}{%- if part.text is defined -%}{{ part.text }}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{{- '<|im_start|>system\n' -}}
{%- if messages and messages[0].role == 'system' -%}{{- body(messages[0].content) + '\n\n' -}}{%- endif -%}
{{- 'Tools:\n<tools>' -}}
{%- for tool in tools -%}{{- '\n' -}}{{- tool | tojson -}}{%- endfor -%}
{{- '\n</tools>\nA tool is called like this:\n<tool_call>\n{"name": NAME, "arguments": ARGUMENTS}\n</tool_call><|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- if not (tools and loop.first) -%}{{- '<|im_start|>system\n' + body(message.content) + '<|im_end|>\n' -}}{%- endif -%}
{%- elif message.role == 'tool' -%}
{{- '<|im_start|>tool\n' + body(message.content) + '<|im_end|>\n' -}}
{%- elif message.role == 'assistant' -%}
{{- '<|im_start|>assistant\n' -}}
{%- if message.reasoning_content -%}{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' -}}{%- endif -%}
{{- body(message.content) -}}
{%- if message.tool_calls -%}
{%- for call in message.tool_calls -%}
{%- if body(message.content) or not loop.first -%}{{- '\n' -}}{%- endif -%}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' -}}
{%- if call.function.arguments is string -%}{{- call.function.arguments -}}{%- else -%}{{- call.function.arguments | tojson -}}{%- endif -%}
{{- '}\n</tool_call>' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\n' + body(message.content) + '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}
{%- endif -%}
""".strip()

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tools>", "</tools>"]

# ------------------------------------------------------------------ the text
NAMES = "Mia Tom Anna Ben Lily Max Zoe Leo Nina Sam Ivy Oscar Ruth Hugo Clara Finn".split()
ANIMALS = "cat dog fox bear owl frog mouse rabbit duck horse lion tiger turtle whale crow ant".split()
PLACES = "forest garden river beach hill city village island meadow cave lake farm".split()
THINGS = "ball kite book lamp boat hat key map bell stone cake drum box coin shell ring".split()
ADJ = "small big red blue old new shiny soft brave kind quiet happy sleepy clever gentle funny".split()
FEEL = "happy sad proud calm tired excited curious glad".split()
CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
            "China": "Beijing", "Egypt": "Cairo", "Peru": "Lima", "Norway": "Oslo", "Greece": "Athens",
            "Canada": "Ottawa", "Cuba": "Havana", "Kenya": "Nairobi", "Austria": "Vienna", "Poland": "Warsaw",
            "Portugal": "Lisbon"}
CITIES = list(CAPITALS.values()) + ["London", "Boston", "Sydney", "Mumbai", "Toronto", "Seoul"]
WEATHER = ["sunny", "rainy", "cloudy", "windy", "snowy", "foggy"]
FILES = ["main.py", "README.md", "notes.txt", "app.js", "config.yaml", "data.json", "test.py", "index.html", "hello.txt", "Makefile"]
DIRS = ["", "src/", "docs/", "/tmp/", "./", "tests/"]
CMDS = ["ls", "ls -la", "pwd", "git status", "date", "whoami", "echo hello", "pytest -q", "git diff", "make test"]
SYL = "ba be bo da de do fa fe fi ga go ka ke ki ko la le li lo ma me mi mo na ne ni no pa pe po ra re ri ro sa se si so ta te ti to va ve vi vo za ze zu".split()
VERBS = "get set list find make send open close read write check start stop move add remove show test use call".split()
PARAMS = "name id key value text param query path url color size count title user date label item note topic code".split()
WORDS = sorted(set(ANIMALS + PLACES + THINGS + ADJ + "apple tree sun moon star bread milk water fire wind snow rain road door house".split()))


def word(r):
    """Half the time a made-up word, so that copying is the only way to get it right."""
    return r.choice(WORDS) if r.random() < 0.5 else "".join(r.choice(SYL) for _ in range(r.randint(2, 3)))


def person(r):
    return r.choice(NAMES) if r.random() < 0.5 else word(r).capitalize()


def story(r, hero=None):
    a, n, p, t = hero or r.choice(ANIMALS), person(r), r.choice(PLACES), r.choice(THINGS)
    d, f, d2 = r.choice(ADJ), r.choice(FEEL), r.choice(ADJ)
    first = r.choice(["Once upon a time, there was a {d} {a} named {n}.", "One day, a {d} {a} named {n} woke up early.",
                      "Long ago, a {d} {a} called {n} lived near the {p}."])
    mid = r.sample(["{n} liked to walk in the {p}.", "One morning, {n} found a {d2} {t} in the {p}.",
                    "{n} picked up the {t} and looked at it.", "A friend came by and said, \"What a {d2} {t}!\"",
                    "They played with the {t} all day.", "It began to rain, so {n} ran home.",
                    "{n} felt {f} and smiled.", "The {p} was quiet and the sun was warm."], r.randint(3, 5))
    last = r.choice(["At the end of the day, {n} was {f}.", "{n} never forgot that day.", "And {n} slept well that night."])
    return " ".join([first, *mid, last]).format(**locals())


def count(lo, hi):
    return ", ".join(str(i) for i in range(lo, hi + 1)) + "."


def plain(r):
    """(user text, thought, answer)"""
    k = r.choice([0, 0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 7, 8, 8, 9, 10, 10])
    if k == 0:
        n = person(r)
        u = r.choice(["Hello", "Hi", "Say hello", "Hello!", "Good morning", "Hi there", f"Hi, I am {n}.", "How are you?", "Hello world"])
        a = f"Hello {n}! How can I help you today?" if n in u else r.choice(["Hello! How can I help you today?", "Hello! It is nice to meet you."])
        return u, "The user says hello. I will say hello too.", a
    if k in (1, 2):
        h = r.choice(ANIMALS)
        u = r.choice(["Tell me a story about a {h}.", "Write a story about a {h}.", "Please tell me a short story about a {h}.", "Can you write about a {h}?"]).format(h=h)
        return u, f"The user wants a story about a {h}. I will write one.", story(r, h)
    if k == 3:
        lo = r.choice([1, 1, 1, r.randint(1, 20)])
        hi = lo + r.randint(2, 29)
        return r.choice(["Count from {lo} to {hi}.", "Please count from {lo} to {hi}."]).format(lo=lo, hi=hi), f"The user wants me to count from {lo} to {hi}.", count(lo, hi)
    if k in (4, 5):
        c = r.choice(list(CAPITALS))
        u = r.choice(["What is the capital of {c}?", "Tell me the capital of {c}.", "Which city is the capital of {c}?"]).format(c=c)
        return u, f"The user asks for the capital of {c}. It is {CAPITALS[c]}.", f"The capital of {c} is {CAPITALS[c]}."
    if k in (6, 7):
        w = " ".join(word(r) for _ in range(r.randint(1, 8)))
        return r.choice(["Repeat: {w}", "Say this: {w}", "Repeat after me: {w}"]).format(w=w), f"The user wants me to say: {w}", w
    if k == 8:
        n, age, c = person(r), r.randint(3, 80), r.choice(CITIES)
        return (r.choice([f"Give me JSON for {n}, age {age}, from {c}.", f"{n} is {age} years old and lives in {c}. Write it as JSON."]),
                f"I will write JSON with the name, the age and the city.", json.dumps({"name": n, "age": age, "city": c}))
    if k == 9:
        x, y = r.randint(0, 9), r.randint(0, 9)
        return r.choice([f"What is {x} + {y}?", f"What is {x} plus {y}?", f"Calculate {x} + {y}."]), f"I add {x} and {y}. That makes {x + y}.", f"{x} + {y} = {x + y}."
    s, t, n = word(r), word(r), person(r)
    return f"{n} put the {t} in the {s}. Where is the {t}?", f"{n} put the {t} in the {s}.", f"The {t} is in the {s}."


def spec(name, desc, props, req=None):
    return {"type": "function", "function": {"name": name, "description": desc, "parameters": {
        "type": "object", "properties": {k: {"type": v} for k, v in props.items()}, "required": req or list(props)}}}


def any_tool(r):
    """A made-up tool with one to three made-up parameters, called as the user says."""
    name = r.choice(["_", "_", "-", ""]).join([r.choice(VERBS), word(r)])
    if r.random() < 0.3:
        name = word(r) + r.choice(["", "_tool"])
    props, args = {}, {}
    for p in r.sample(PARAMS, r.choice([1, 1, 1, 2, 2, 3])):
        p = p if r.random() < 0.7 else f"{p}_{word(r)}"
        kind = r.choice(["string", "string", "string", "integer", "boolean"])
        props[p] = kind
        args[p] = {"string": " ".join(word(r) for _ in range(r.randint(1, 3))), "integer": r.randint(0, 99), "boolean": r.random() < 0.5}[kind]
    said = " and ".join(f"{k} {json.dumps(v) if not isinstance(v, str) else v}" for k, v in args.items())
    user = r.choice([f"Use {name} with {said}.", f"Call {name} with {said}.", f"Please use the {name} tool with {said}."])
    result = " ".join(word(r) for _ in range(r.randint(1, 4)))
    return spec(name, r.choice([f"A tool to {r.choice(VERBS)} the {word(r)}", "", "A tool", f"{r.choice(VERBS).capitalize()} {word(r)}"]), props), user, args, result, f"{name} says: {result}"


def tool_cases(r):
    """(tool spec, user text, arguments, result, final answer)"""
    if r.random() < 0.5:
        return any_tool(r)
    city, f, cmd = r.choice(CITIES), r.choice(DIRS) + r.choice(FILES), r.choice(CMDS)
    w = " ".join(word(r) for _ in range(r.randint(1, 3)))
    deg, wt = r.randint(-5, 35), r.choice(WEATHER)
    key = r.choice(["location", "city", "place"])
    x, y = r.randint(0, 99), r.randint(0, 99)
    fk = r.choice(["file_path", "path"])
    return r.choice([
        (spec(r.choice(["get_weather", "weather", "get_current_weather"]), "Get the weather", {key: "string"}),
         r.choice(["What is the weather in {c}?", "What's the weather in {c}?", "How is the weather in {c} today?"]).format(c=city), {key: city},
         f"{wt}, {deg} degrees", f"The weather in {city} is {wt}, {deg} degrees."),
        (spec(r.choice(["Read", "read_file"]), "Read a file", {fk: "string"}),
         r.choice(["Read the file {f}.", "Open {f}.", "What is in {f}?"]).format(f=f), {fk: f}, w, f"The file {f} says: {w}"),
        (spec(r.choice(["Bash", "run", "shell"]), "Run a command", {"command": "string"}),
         r.choice(["Run {c}", "Run the command {c}", "Please run {c}"]).format(c=cmd), {"command": cmd}, w, f"The command {cmd} printed: {w}"),
        (spec(r.choice(["Write", "write_file"]), "Write a file", {fk: "string", "content": "string"}),
         r.choice([f"Write {w} to {f}.", f"Save {w} in {f}."]), {fk: f, "content": w}, "ok", f"I wrote {w} to {f}."),
        (spec(r.choice(["search", "web_search"]), "Search", {"query": "string"}),
         r.choice(["Search for {w}.", "Find {w}.", "Look up {w}."]).format(w=w), {"query": w}, f"found {r.randint(1, 9)} pages", None),
        (spec(r.choice(["calculator", "calc"]), "Calculate math", {"expression": "string"}),
         r.choice([f"Calculate {x} + {y}", f"Calculate {x} * {y}"]), None, str(x + y), None),
    ])


def sample(r):
    """One conversation as template input: (messages, tools, thinking)."""
    think = r.random() < 0.5
    msgs, tools = [], None
    if r.random() < 0.35:
        msgs.append({"role": "system", "content": r.choice(["You are a helpful assistant.", "You are a friendly helper.", "Be short and clear.", "You are a coding assistant."])})
    if r.random() < 0.55:
        tool, user, args, result, final = tool_cases(r)
        if args is None:
            args = {"expression": user.split(" ", 1)[1]}
        final = final or f"The result is: {result}"
        others = [tool_cases(r)[0] for _ in range(r.choice([0, 0, 1, 2]))]
        name = tool["function"]["name"]
        tools = [tool] + [t for t in others if t["function"]["name"] != name and (t["function"]["description"] != tool["function"]["description"] or len(t["function"]["description"]) < 7)]
        r.shuffle(tools)
        msgs.append({"role": "user", "content": user})
        msgs.append({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": args}}],
                     **({"reasoning_content": f"I will call {name} for this."} if think else {})})
        if r.random() < 0.6:
            msgs.append({"role": "tool", "content": result})
            msgs.append({"role": "assistant", "content": final, **({"reasoning_content": "I have the result, so I can answer."} if think else {})})
            if r.random() < 0.2:
                tools = None
    else:
        for _ in range(r.choice([1, 1, 2])):
            u, t, a = plain(r)
            msgs.append({"role": "user", "content": u})
            msgs.append({"role": "assistant", "content": a, **({"reasoning_content": t} if think else {})})
    return msgs, tools, think


def renderer():
    import jinja2
    env = jinja2.Environment()
    env.filters["tojson"] = lambda v: json.dumps(v, ensure_ascii=False)
    tmpl = env.from_string(CHAT_TEMPLATE)

    def render(msgs, tools, think):
        text = tmpl.render(messages=msgs, tools=tools, add_generation_prompt=False)
        if not think:  # what the template puts there when thinking is off
            text = text.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n")
        return text
    return render


# ------------------------------------------------------------------ tokenizer
def train_tokenizer(texts, vocab):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in CONTROL + MARKS]
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tok


# ------------------------------------------------------------------ network
def build(cfg):
    import torch
    from torch import nn
    import torch.nn.functional as F

    def rms(x, w, eps=1e-6):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w

    class Block(nn.Module):
        def __init__(s):
            super().__init__()
            d, hd, nh, nkv, ff = cfg["dim"], cfg["head_dim"], cfg["heads"], cfg["kv_heads"], cfg["ffn"]
            lin = lambda i, o: nn.Linear(i, o, bias=False)
            s.attn_q, s.attn_k, s.attn_v, s.attn_output = lin(d, nh * hd), lin(d, nkv * hd), lin(d, nkv * hd), lin(nh * hd, d)
            s.ffn_gate, s.ffn_up, s.ffn_down = lin(d, ff), lin(d, ff), lin(ff, d)
            s.attn_norm, s.ffn_norm = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
            s.attn_q_norm, s.attn_k_norm = nn.Parameter(torch.ones(hd)), nn.Parameter(torch.ones(hd))
            for m in (s.attn_output, s.ffn_down):
                nn.init.normal_(m.weight, std=0.02 / math.sqrt(2 * cfg["layers"]))

        def forward(s, x, cos, sin):
            B, T, _ = x.shape
            hd, nh, nkv = cfg["head_dim"], cfg["heads"], cfg["kv_heads"]
            h = rms(x, s.attn_norm)
            q = rms(s.attn_q(h).view(B, T, nh, hd), s.attn_q_norm).transpose(1, 2)
            k = rms(s.attn_k(h).view(B, T, nkv, hd), s.attn_k_norm).transpose(1, 2)
            v = s.attn_v(h).view(B, T, nkv, hd).transpose(1, 2)

            def rot(z):
                a, b = z[..., :hd // 2], z[..., hd // 2:]
                return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
            q, k = rot(q), rot(k)
            k, v = k.repeat_interleave(nh // nkv, 1), v.repeat_interleave(nh // nkv, 1)
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + s.attn_output(o.transpose(1, 2).reshape(B, T, nh * hd))
            h = rms(x, s.ffn_norm)
            return x + s.ffn_down(F.silu(s.ffn_gate(h)) * s.ffn_up(h))

    class Net(nn.Module):
        def __init__(s):
            super().__init__()
            s.token_embd = nn.Embedding(cfg["vocab"], cfg["dim"])
            nn.init.normal_(s.token_embd.weight, std=0.02)
            s.blk = nn.ModuleList(Block() for _ in range(cfg["layers"]))
            s.output_norm = nn.Parameter(torch.ones(cfg["dim"]))

        def forward(s, ids):
            T = ids.shape[1]
            inv = cfg["rope_base"] ** (-torch.arange(0, cfg["head_dim"], 2).float() / cfg["head_dim"])
            ang = torch.arange(T).float()[:, None] * inv[None]
            cos, sin = ang.cos(), ang.sin()
            x = s.token_embd(ids)
            for b in s.blk:
                x = b(x, cos, sin)
            return rms(x, s.output_norm) @ s.token_embd.weight.T
    return Net()


class Muon:
    """Momentum + orthogonalised update for the hidden matrices (small and quick to converge)."""

    def __init__(self, params, lr, momentum=0.95):
        import torch
        self.t, self.params, self.lr, self.mu = torch, params, lr, momentum
        self.buf = [torch.zeros_like(p) for p in params]

    def step(self, scale):
        t = self.t
        with t.no_grad():
            for p, m in zip(self.params, self.buf):
                m.mul_(self.mu).add_(p.grad)
                g = p.grad + self.mu * m
                flip = g.shape[0] > g.shape[1]
                x = g.T if flip else g
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
                x = x.T if flip else x
                p.mul_(1 - 0.01 * self.lr * scale).add_(x, alpha=-self.lr * scale * math.sqrt(max(1, p.shape[0] / p.shape[1])))


def train(net, tok, render, minutes, seq, batch, seed, log):
    import torch
    import torch.nn.functional as F
    r = random.Random(seed)
    im_start, im_end = tok.token_to_id("<|im_start|>"), tok.token_to_id("<|im_end|>")
    role = tok.encode("assistant").ids
    stream_ids, stream_w = [], []

    def more():
        ids = tok.encode(render(*sample(r))).ids
        w, on = [], False
        for i, t in enumerate(ids):
            w.append(1.0 if on else 0.1)
            if t == im_start:
                on = ids[i + 1:i + 1 + len(role)] == role
            elif t == im_end:
                on = False
        stream_ids.extend(ids)
        stream_w.extend(w)

    def get():
        need = batch * (seq + 1)
        while len(stream_ids) < need:
            more()
        a = torch.tensor(stream_ids[:need]).view(batch, seq + 1)
        w = torch.tensor(stream_w[:need]).view(batch, seq + 1)
        del stream_ids[:need], stream_w[:need]
        return a[:, :-1], a[:, 1:], w[:, 1:]

    hidden = [p for n, p in net.named_parameters() if p.ndim == 2 and not n.startswith("token_embd")]
    rest = [p for n, p in net.named_parameters() if p.ndim != 2 or n.startswith("token_embd")]
    mu, ad = Muon(hidden, 0.02), torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    t0, step, seen, avg = time.time(), 0, 0, None
    while True:
        frac = (time.time() - t0) / (60 * minutes)
        if frac >= 1:
            break
        scale = min(1.0, (step + 1) / 30) * (1.0 if frac < 0.5 else max(0.02, 2 * (1 - frac)))
        x, y, w = get()
        loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten(), reduction="none")
        wf = w.flatten()
        reply = (loss.detach() * (wf == 1)).sum() / (wf == 1).sum()
        loss = (loss * wf).sum() / wf.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        mu.step(scale)
        for g in ad.param_groups:
            g["lr"] = 3e-3 * scale
        ad.step()
        net.zero_grad(set_to_none=True)
        step += 1
        seen += x.numel()
        avg = float(reply) if avg is None else 0.95 * avg + 0.05 * float(reply)
        if step % 50 == 0:
            log(f"step {step} tokens {seen} reply-loss {avg:.3f} {seen / (time.time() - t0):.0f} tok/s {frac:.0%}")
    return step, seen, avg


# ------------------------------------------------------------------ GGUF
def export(net, tok, cfg, path, notes):
    import gguf
    w = gguf.GGUFWriter(path, "qwen3")
    w.add_name("tiny-chat")
    w.add_description(notes)
    w.add_license("cc0-1.0")
    w.add_block_count(cfg["layers"])
    w.add_context_length(cfg["context"])
    w.add_embedding_length(cfg["dim"])
    w.add_feed_forward_length(cfg["ffn"])
    w.add_head_count(cfg["heads"])
    w.add_head_count_kv(cfg["kv_heads"])
    w.add_key_length(cfg["head_dim"])
    w.add_value_length(cfg["head_dim"])
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(cfg["rope_base"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    vocab = sorted(tok.get_vocab(with_added_tokens=True).items(), key=lambda kv: kv[1])
    kinds = [gguf.TokenType.CONTROL if t in CONTROL else gguf.TokenType.USER_DEFINED if t in MARKS else gguf.TokenType.NORMAL for t, _ in vocab]
    merges = [m if isinstance(m, str) else " ".join(m) for m in json.loads(tok.to_str())["model"]["merges"]]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list([t for t, _ in vocab])
    w.add_token_types(kinds)
    w.add_token_merges(merges)
    w.add_eos_token_id(tok.token_to_id("<|im_end|>"))
    w.add_pad_token_id(tok.token_to_id("<|endoftext|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)
    for n, p in net.state_dict().items():
        a = p.detach().float().numpy()
        name = n if n.endswith(".weight") else n + ".weight"
        w.add_tensor(name, a.astype(np.float16) if a.ndim == 2 else a.astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=15)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--vocab", type=int, default=1024)
    ap.add_argument("--dim", type=int, default=128)
    ap.add_argument("--layers", type=int, default=5)
    ap.add_argument("--seq", type=int, default=384)
    ap.add_argument("--batch", type=int, default=6)
    a = ap.parse_args()
    import torch
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)
    r, render = random.Random(a.seed + 1000), renderer()
    texts = [render(*sample(r)) for _ in range(6000)]
    tok = train_tokenizer(texts, a.vocab)
    lens = [len(tok.encode(t).ids) for t in texts[:300]]
    cfg = {"vocab": tok.get_vocab_size(), "dim": a.dim, "layers": a.layers, "heads": a.dim // 32, "kv_heads": 2,
           "head_dim": 32, "ffn": 3 * a.dim, "rope_base": 10000.0, "context": 32768}
    net = build(cfg)
    n = sum(p.numel() for p in net.parameters())
    print(f"params {n} vocab {cfg['vocab']} tokens per conversation mean {np.mean(lens):.0f} max {max(lens)}", flush=True)
    notes = "random weights"
    if a.minutes > 0:
        step, seen, loss = train(net, tok, render, a.minutes, a.seq, a.batch, a.seed, lambda s: print(s, flush=True))
        notes = f"trained on generated text: {step} steps, {seen} tokens, reply loss {loss:.3f}"
    export(net, tok, cfg, a.out, f"{n} parameters; {notes}")
    print(a.out, notes, flush=True)


if __name__ == "__main__":
    main()
