"""A language model of a few hundred kilobytes with random weights, in llama.cpp's own file format.

It says nothing sensible, and always the same at temperature 0: what the tests need of a model is that it is
really loaded, really runs, and takes a moment for each token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGUFWriter, TokenType

CONTEXT_TOKENS: Final = 8192
_WIDTH, _LAYERS, _HEADS, _FORWARD = 64, 2, 4, 128
_CONTROL: Final = ("<unk>", "<s>", "</s>")
_SYLLABLES: Final = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "il")]
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"
)


CALL_START: Final = '<tool_call>\n{"name": "'
CALL_TOKEN: Final = 259
"""The id of the token CALL_START: with a bias on it, the model calls a tool at once."""
TOOL_TEMPLATE: Final = """\
{%- if tools %}
{{- "system: You may call functions. They are within <tools></tools>:\\n<tools>" }}
{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
{{- "\\n</tools>\\nFor each call, write a JSON object within <tool_call></tool_call>:\\n<tool_call>\\n" }}
{{- '{"name": <name>, "arguments": <object>}' }}{{- "\\n</tool_call>\\n" }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- 'assistant: ' }}
{%- if message.reasoning_content %}
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
{{- message.content or '' }}
{%- for tool_call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + tool_call.function.name + '", "arguments": ' }}
{%- if tool_call.function.arguments is string %}{{- tool_call.function.arguments }}
{%- else %}{{- tool_call.function.arguments | tojson }}{%- endif %}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '\\n' }}
{%- elif message.role == 'tool' %}
{{- 'user: <tool_response>\\n' + message.content + '\\n</tool_response>\\n' }}
{%- else %}
{{- message.role + ': ' + message.content + '\\n' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}
{%- if enable_thinking is defined and enable_thinking %}{{- '<think>\\n' }}
{%- else %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"""
"""Like those of models that think and call tools: it thinks unless `enable_thinking` is false."""


def write_model(path: Path, *, seed: int = 1, width: int = _WIDTH, layers: int = _LAYERS) -> None:
    """Write the model. It generates words like ` kil` and hardly ever ends by itself."""
    random = np.random.default_rng(seed)
    words = ["\u2581", *("\u2581" + syllable for syllable in _SYLLABLES), *_SYLLABLES, *".,:;!?\n"]
    tokens = [*_CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), CALL_START, *words]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    kinds += [TokenType.USER_DEFINED]
    kinds += [TokenType.NORMAL] * len(words)
    silent = len(tokens) - len(words)

    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny-llama")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(width // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * silent + [-float(n) for n in range(len(words))])
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)

    ones = np.ones(width, dtype=np.float32)
    writer.add_tensor("token_embd.weight", weights(len(tokens), width))
    writer.add_tensor("output_norm.weight", ones)
    output = weights(len(tokens), width)
    output[:silent] = 0  # some word is always likelier than a control character or half a letter
    writer.add_tensor("output.weight", output)
    for layer in range(layers):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(width, width))
        writer.add_tensor(f"blk.{layer}.ffn_gate.weight", weights(_FORWARD, width))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", weights(_FORWARD, width))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(width, _FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
