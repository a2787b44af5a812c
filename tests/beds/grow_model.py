"""Valid GGUF models of any size: a small model's metadata and tokenizer, its layers repeated."""

from pathlib import Path

import gguf

MOST_BLOCKS = 512
"""llama.cpp refuses models with more layers (LLAMA_MAX_LAYERS)."""


ENDINGS = ("<|endoftext|>", "<|im_end|>")
"""What llama.cpp takes for the end of an answer; a model that rambles says it after some hundred words."""
NEVER_SAID = 16
"""The last of the vocabulary's special tokens, for notebooks without output."""


def grow_model(source: Path, target: Path, blocks: int, name: str) -> None:
    """Write `target`: the model in `source` with `blocks` layers, called `name`.

    The name is part of the file, so a new one alone makes a new blob, hence another runner. It never ends an
    answer by itself: a client gets as many tokens as it asks for.

    Raises:
        ValueError: more than `MOST_BLOCKS` layers.
    """
    if blocks > MOST_BLOCKS:
        raise ValueError(f"{blocks} layers asked for, at most {MOST_BLOCKS} can be loaded")
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    _copy_fields(reader, writer, blocks, name)
    _copy_tensors(reader, writer, blocks)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_fields(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, blocks: int, name: str) -> None:
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        if field.name == "llama.block_count":
            writer.add_uint32(field.name, blocks)
        elif field.name == "general.name":
            writer.add_string(field.name, name)
        elif field.name == "tokenizer.ggml.eos_token_id":
            writer.add_uint32(field.name, NEVER_SAID)
        else:
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            contents = field.contents()
            if field.name == "tokenizer.ggml.tokens":
                contents = [
                    f"<unused {i}>" if token in ENDINGS else token for i, token in enumerate(contents)
                ]
            writer.add_key_value(field.name, contents, kind, sub_type=inner)


def _copy_tensors(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, blocks: int) -> None:
    have = int(reader.fields["llama.block_count"].parts[-1][0])
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk."):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for block in range(blocks):
        prefix = f"blk.{block % have}."
        for tensor in reader.tensors:
            if tensor.name.startswith(prefix):
                name = f"blk.{block}.{tensor.name.removeprefix(prefix)}"
                writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
