#!/usr/bin/env python3
"""Writes a GGUF file of the llama architecture with random weights in F16: a model that is wider than the default one.

    pip install gguf
    python3 tests/models/wide.py SmolLM2-135M-Instruct.Q4_1.gguf wide.f16.gguf
    llama-quantize wide.f16.gguf wide.Q4_K_M.gguf Q4_K_M

The first file gives the tokenizer and the chat template. What the model writes has no meaning; its speed and memory do.
"""

import argparse

import gguf
import numpy

HEAD_SIZE = 64
CONTEXT_LENGTH = 8192
CONTROL_TOKEN = 3  # in tokenizer.ggml.token_type


def copy_tokenizer(source: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    """Copies every field of the tokenizer, including the chat template."""
    for name, field in source.fields.items():
        if name.startswith("tokenizer."):
            kind = field.types[0]
            element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, element)


def writable_tokens(source: gguf.GGUFReader) -> numpy.ndarray:
    """Returns for each token whether it is ASCII text, so that a server can send it as soon as it is sampled.

    "Ġ" stands for a space. Control tokens are not writable: a reply must not end before its full length.
    """
    tokens = source.fields["tokenizer.ggml.tokens"].contents()
    kinds = source.fields["tokenizer.ggml.token_type"].contents()
    return numpy.array([
        kind != CONTROL_TOKEN and token.replace("Ġ", " ").isascii() for token, kind in zip(tokens, kinds)
    ])


def write(source: gguf.GGUFReader, path: str, width: int, layers: int) -> None:
    """Writes the model. Its values depend only on the shape."""
    heads, kv_heads = width // HEAD_SIZE, width // HEAD_SIZE // 4
    hidden = (width * 11 // 4 + 255) // 256 * 256  # K quants have blocks of 256 values
    writable = writable_tokens(source)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random-{width}x{layers}")
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(writable))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    copy_tokenizer(source, writer)

    random = numpy.random.default_rng(1)

    def matrix(name: str, rows: int, columns: int, keep: numpy.ndarray | None = None) -> None:
        values = random.standard_normal((rows, columns), dtype=numpy.float32) / numpy.sqrt(columns)
        if keep is not None:
            values[~keep] = 0.0  # the logit 0 is never the greatest one
        writer.add_tensor(name, values.astype(numpy.float16))

    def norm(name: str) -> None:
        writer.add_tensor(name, numpy.ones(width, dtype=numpy.float32))

    matrix("token_embd.weight", len(writable), width)
    for layer in range(layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm.weight")
        matrix(f"{block}.attn_q.weight", width, width)
        matrix(f"{block}.attn_k.weight", kv_heads * HEAD_SIZE, width)
        matrix(f"{block}.attn_v.weight", kv_heads * HEAD_SIZE, width)
        matrix(f"{block}.attn_output.weight", width, width)
        norm(f"{block}.ffn_norm.weight")
        matrix(f"{block}.ffn_gate.weight", hidden, width)
        matrix(f"{block}.ffn_up.weight", hidden, width)
        matrix(f"{block}.ffn_down.weight", width, hidden)
    norm("output_norm.weight")
    matrix("output.weight", len(writable), width, keep=writable)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a GGUF file with the tokenizer")
    parser.add_argument("path", help="the file to write")
    parser.add_argument("--width", type=int, default=1024, help="a multiple of 256")
    parser.add_argument("--layers", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.width <= 0 or arguments.width % 256:
        parser.error("--width must be a multiple of 256")
    write(gguf.GGUFReader(arguments.source), arguments.path, arguments.width, arguments.layers)


if __name__ == "__main__":
    main()
